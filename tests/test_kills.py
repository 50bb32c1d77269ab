"""SIGKILL anywhere in searches, `refine`, `audit`, `apply --heal`: nothing lost, nothing twice, no leftovers.

What was killed 25 times ends as what never was: the same trials, the same losses bit for bit, the same files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces import parse_space
from studies.data import TokenData, prepare
from studies.study import Study
from studies.study.trial_record import TrialRecord
from studies.workers.worker import work
from tests.kills import AUDITED, DESIGNS, REPEATS, TRAINED
from tests.nas_cli.conftest import architecture_file, llama_folder, prepared, text_file
from tests.pretrained import SPACE as REPLACEMENTS
from tests.pretrained import begin, save_model
from tests.studies.conftest import SPACE, outcome, study_settings

__all__ = ["architecture_file", "llama_folder", "prepared", "text_file"]  # fixtures

ROOT = Path(__file__).resolve().parents[1]
KILLS = int(os.environ.get("NAS_TEST_KILLS", "25"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokens(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    folder = tmp_path_factory.mktemp("text") / "tokens"
    return prepare(str(text_file), "bpe:512", folder, min_val_tokens=2048)


@pytest.fixture
def study(tokens: TokenData, tmp_path: Path) -> Study:
    """Not begun; some of its trials will be paused at a rung."""
    text = SPACE.replace("[0.5, 1.0]", "[0.25, 0.5, 1.0]").replace("13k", "20k")
    space = parse_space(text, "small.yaml")
    settings = study_settings(tokens, sampler="gain", stopping="forecast")
    return Study.create("study", space, settings, tmp_path / "template")


def killed(what: str, template: Path, out: Path, seed: int, *words: object) -> list[Path]:
    """Copies of the template where the work was done: first without kills, then with 25 of them."""
    command = [sys.executable, "-m", "tests.kills", what, template, out, seed, KILLS, *words]
    scratch = out.with_name("scratch")
    scratch.mkdir()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "NAS_HOME": str(out / "home"),
        "TMPDIR": str(scratch),
    }
    result = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-5000:]
    data = json.loads(result.stdout.splitlines()[-1])
    print(f"{what}: {data}")
    assert sum(data["kills"].values()) == KILLS
    assert not list(scratch.glob("nas-*"))
    return [out / str(number) / template.name for number in range(data["copies"] + 1)]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def trials(study: Study) -> list[TrialRecord]:
    return [record for record in study.records() if record.counted]


def same_studies(copies: list[Path]) -> Study:
    """The study that was never killed, after comparing the others with it."""
    whole, *broken = (Study.open(str(copy)) for copy in copies)
    assert broken
    for study in broken:
        assert outcome(study) == outcome(whole)
        assert [record.repeat_of for record in study.records()] == [
            record.repeat_of for record in whole.records()
        ]
        assert files(study.folder) == files(whole.folder)
        front = [(row.number, row.values) for row in study.front()]
        assert front == [(row.number, row.values) for row in whole.front()]
    assert not list(whole.workers_folder.iterdir())
    return whole


def test_search(study: Study, tmp_path: Path) -> None:
    whole = same_studies(killed("search", study.folder, tmp_path / "killed", 1))
    assert len(trials(whole)) == TRAINED
    paused = [record.number for record in whole.records() if record.state == "paused"]
    assert paused
    assert any(record.passed for record in whole.records())
    checkpoints = [int(path.parent.name) for path in whole.folder.rglob("checkpoint.*")]
    assert sorted(checkpoints) == paused


def test_refine(study: Study, tmp_path: Path) -> None:
    work(study, target=4, device="cpu", log=lambda line: None)
    whole = same_studies(killed("refine", study.folder, tmp_path / "killed", 2))
    assert sum(record.repeated for record in whole.records()) == REPEATS


def test_search_in_a_pretrained_model(prepared: Path, tmp_path: Path) -> None:
    """The library is built, scored and used in the copies; what is fitted is not fitted again."""
    space = tmp_path / "small.yaml"
    space.write_text(REPLACEMENTS)
    study = begin(space, save_model(tmp_path / "llama", prepared), prepared, tmp_path / "template")
    whole = same_studies(killed("designs", study.folder, tmp_path / "killed", 5))
    assert len(trials(whole)) == DESIGNS


def test_audit(study: Study, tmp_path: Path) -> None:
    work(study, target=5, device="cpu", log=lambda line: None)
    copies = killed("audit", study.folder, tmp_path / "killed", 3)
    same_studies(copies)
    results = []
    for copy in copies:
        paths = sorted((copy / "audit").rglob("*-*.json"))
        assert len(paths) == AUDITED
        actual = {path.name: json.loads(path.read_text()) for path in paths}
        results.append(
            {name: (data["val_loss"], data["losses"], data["seed"]) for name, data in actual.items()}
        )
        for path in paths:
            points = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
            steps = [(point["step"], "val_loss" in point) for point in points]
            assert len(set(steps)) == len(steps)
    assert all(result == results[0] for result in results)


def test_apply(architecture_file: Path, llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    design = tmp_path / "design.yaml"
    design.write_text("projections:\n  - {match: [q, gate], operator: hdpl, blocks: 2, rank: 8, kl: mean}\n")
    (tmp_path / "template").mkdir()
    copies = killed(
        "command", tmp_path / "template", tmp_path / "killed", 4,
        "apply", design, llama_folder, "-o", "model", "--calibrate", "none", "--align", "2k",
        "--heal", "4k", "--eval-every", 2, "--data", prepared, "--seq-len", 64, "--batch-tokens", 512,
        "--device", "cpu",
    )  # fmt: skip
    whole, *broken = copies
    assert files(whole)[0] == "model"
    for copy in broken:
        assert files(copy) == files(whole)
        for path in (whole / "model").glob("*.safetensors"):
            assert (copy / "model" / path.name).read_bytes() == path.read_bytes()
