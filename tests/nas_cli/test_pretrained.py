"""A pretrained model from `search --model` to `apply`: resumed, refined, picked, rewritten and verified."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from typer.testing import Result

from studies.analysis.standings import ORIGINAL
from studies.data import TokenData
from studies.search.refinement import take_repeat
from studies.study import Study
from studies.workers.worker import work
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.config.problems import UserError
from tests.pretrained import CACHE, SPACE, begin, save_model
from tests.studies.conftest import outcome

Nas = Callable[..., Result]
TARGET = 10


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of this module's own."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def model(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "llama", prepared)


@pytest.fixture(scope="module")
def space_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    return path


def search(study: Study, target: int) -> None:
    work(study, target=target, device="cpu", log=lambda line: None)
    study.write_front()


def entries(home: Path) -> dict[str, int]:
    """When each file of the libraries was written, in ns."""
    return {str(path): path.stat().st_mtime_ns for path in (home / "library").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def study(space_file: Path, model: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Finished without a break; tests must not change it."""
    study = begin(space_file, model, prepared, tmp_path_factory.mktemp("runs"))
    search(study, TARGET)
    return study


def test_a_resumed_search_equals_one_without_a_break(
    study: Study, space_file: Path, model: Path, prepared: Path, home: Path, tmp_path: Path
) -> None:
    before = entries(home)
    assert any(name.endswith(".safetensors") for name in before)
    search(begin(space_file, model, prepared, tmp_path), 4)
    again = begin(space_file, model, prepared, tmp_path)
    assert sum(record.counted for record in again.records()) == 4
    search(again, TARGET)
    assert outcome(again) == outcome(study)
    assert entries(home) == before
    front = [(row.number, row.values) for row in study.front()]
    assert [(row.number, row.values) for row in again.front()] == front
    assert len(front) >= 4


def test_another_model_is_refused(
    study: Study, space_file: Path, prepared: Path, model: Path, tmp_path: Path
) -> None:
    """Under the study's name, and in the study's own model folder."""
    with pytest.raises(UserError, match="weights"):
        begin(space_file, save_model(tmp_path / "other", prepared, 4), prepared, study.folder.parent)
    kept = tmp_path / "kept"
    shutil.copytree(model, kept)
    try:
        save_model(model, prepared, 4)
        with pytest.raises(UserError, match="not this study's model"):
            search(Study.open(str(study.folder)), TARGET + 1)
    finally:
        shutil.rmtree(model)
        shutil.copytree(kept, model)


def test_a_pick_under_half_the_cache_is_applied(study: Study, model: Path, nas: Nas, tmp_path: Path) -> None:
    runs, pick, out = study.folder.parent, tmp_path / "pick.yaml", tmp_path / "out"
    result = nas("pick", study.name, "--dir", runs, "--limit", f"{CACHE} <= 50%", "--best", "kl", "-o", pick)
    assert result.exit_code == 0, result.output
    assert f"nas apply {pick} {model} -o OUT" in result.output
    chosen = Architecture.from_yaml(pick)
    before = cost(study.space.model.architecture, CACHE) if study.space.model else 0
    assert cost(chosen, CACHE) <= before / 2
    best = min(row.values[0] for row in study.front() if row.values[1] <= before / 2)  # type: ignore[index]
    assert best in {row.values[0] for row in study.front() if row.hash == chosen.hash}  # type: ignore[index]
    result = nas("apply", pick, model, "-o", out, "--calibrate", "none", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    assert Architecture.from_yaml(out / "architecture.yaml").hash == chosen.hash


def test_refining_measures_other_text_until_it_runs_out(
    study: Study, prepared: Path, nas: Nas, tmp_path: Path
) -> None:
    copy = Study.open(str(shutil.copytree(study.folder, tmp_path / "small")))
    assert copy.space.library is not None
    from studies.library.text import samples

    stretches = samples(TokenData.open(prepared), copy.space.library)
    assert stretches > 1
    lines: list[str] = []
    reason = work(
        copy, target=None, device="cpu", log=lines.append, take_next=partial(take_repeat, most=stretches + 5)
    )
    assert "nothing is left to repeat" in reason
    assert f"a design is measured at most {stretches} times" in reason
    repeats = [record for record in copy.records() if record.repeated]
    assert {record.state for record in repeats} == {"repeat"}
    assert max(record.repeat for record in repeats) < stretches
    assert copy.record(0).baseline == ORIGINAL
    assert 0 not in {record.repeat_of for record in repeats}  # it is exact
    assert len({record.values for record in repeats}) == len(repeats)
    text = nas("front", copy.folder).output
    assert "±" in text
    assert "standard deviation of a single text" in text
    assert json.loads(nas("front", copy.folder, "--json").stdout)


def test_a_single_stretch_can_not_be_refined(model: Path, prepared: Path, nas: Nas, tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(SPACE.replace("eval_tokens: 1024", "eval_tokens: 100k"))
    study = begin(path, model, prepared, tmp_path)
    search(study, 2)
    result = nas("refine", study.folder)
    assert result.exit_code == 2
    assert "a design is measured once" in str(result.exception)
    with pytest.raises(UserError, match=r"smaller library\.eval_tokens"):
        raise result.exception or AssertionError
