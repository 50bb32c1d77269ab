"""An audit over a pretrained model: a tiny study, its designs healed, and their control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces.catalog import load_space
from search_spaces.pretrained import ModelSection
from studies.audit.expected import expected_seconds
from studies.audit.plan import open_audit
from studies.audit.report import KL, SUM, report
from studies.audit.runs import train_runs
from studies.data import TokenData
from studies.healing.saved import weights_hash
from studies.study import Study
from studies.study.settings import MILP
from studies.workers.worker import work
from surgery.apply.source import SourceModel
from tests.nas_cli.conftest import prepared, text_file
from tests.studies.conftest import study_settings
from tests.studies.library.conftest import source

__all__ = ["prepared", "source", "text_file"]  # fixtures

SPACE = """
search:
  layers.mixer: {choice: [keep, W: {window: 16, sinks: 2}, none]}
  layers.ffn: {choice: [keep, dim: 32]}
objectives: {kl: min, cache_bytes@64: min}
library: {fit_tokens: 256, seq_len: 64, score_tokens: 256, eval_tokens: 256}
"""


@pytest.fixture
def study(source: SourceModel, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "mine.yaml"
    path.write_text(SPACE)
    space = load_space(path, ModelSection(str(source.folder), weights_hash(source), source.architecture))
    settings = replace(study_settings(TokenData.open(prepared)), sampler=MILP)
    made = Study.create("study", space, settings, tmp_path / "runs")
    work(made, target=6, device="cpu", log=lambda line: None)
    return made


def test_designs_are_healed_with_their_control(study: Study) -> None:
    records = study.records()
    assert records[0].baseline == "original"
    assert records[0].metrics["kl"] == pytest.approx(0, abs=1e-6)
    audit = open_audit(study, 1, 4, heal=2048)
    lines: list[int] = []
    stepped: list[bool] = []  # whether a step was the control's
    controls: list[dict[str, float | None]] = []
    runs = audit.runs(1)
    all_of_it = expected_seconds(audit, runs)
    assert all_of_it > expected_seconds(audit, runs[1:]) > 0
    train_runs(
        audit, 1, "cpu",
        on_done=lambda done: lines.append(done.left),
        on_step=lambda run, progress: stepped.append(run is None),
        on_control=controls.append,
    )  # fmt: skip
    assert lines == [3, 2, 1, 0]
    steps = sum(stepped)
    assert steps > 0
    assert stepped == [True] * steps + [False] * 4 * steps
    result = report(audit)
    assert result.control is not None
    assert controls == [result.control]
    assert expected_seconds(audit, runs) < all_of_it  # the control is known
    assert result.control["control"] < result.control["original"]
    assert len(result.points) == 4
    for point in result.points:
        assert point.proxy_loss == point.record.metrics["kl"]
        (healed,) = audit.results()[point.record.hash]
        assert healed["val_loss"] == point.long_loss <= healed["before"]
    names = [row.name for row in result.rows]
    assert names[:2] == [KL, SUM]
    assert result.to_dict()["heal_tokens"] == 2048

    before = {path: path.stat().st_mtime_ns for path in audit.folder.iterdir()}
    train_runs(open_audit(study, 1, 4, heal=2048), 1, "cpu")  # everything is known
    assert {path: path.stat().st_mtime_ns for path in audit.folder.iterdir()} == before
