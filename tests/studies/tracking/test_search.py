"""A study in a tracker: each point once, resumed or not; failures of a tracker end nothing."""

from __future__ import annotations

import json
from threading import Event
from time import sleep

import pytest

from studies.study import Study
from studies.tracking.choice import Choice
from studies.tracking.curves import by_step, new_points
from studies.tracking.search import StudyFollower, run_name, stores, tracking
from studies.workers.worker import work
from tests.studies.conftest import MakeStudy

from .recorded import Memory

BOARD = Choice("tensorboard")


def write_curve(study: Study, number: int, steps: int, val: int | None = None) -> None:
    lines = [{"step": step, "tokens": 512 * step, "loss": 6 - step / 10} for step in range(1, steps + 1)]
    if val is not None:
        lines.append({"step": val, "tokens": 512 * val, "val_loss": 5.5})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (study.trial_folder(number) / "curve.jsonl").write_text(text, encoding="utf-8")


def track(study: Study, choice: Choice) -> None:
    warnings: list[str] = []
    with tracking(study, [choice], warnings.append):
        pass
    assert warnings == []


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    made = make_study(sampler="random")
    work(made, target=4, device="cpu", log=lambda line: None)
    return made


def test_every_trial_is_a_run_with_its_curve_fields_and_results(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory.replacing(monkeypatch)
    track(study, BOARD)
    for record in study.records():
        if record.state not in ("trained", "paused", "failed"):
            assert run_name(record) not in memory.runs
            continue
        run = memory.runs[run_name(record)]
        assert run.settings["architecture"] == record.line
        assert {name: run.settings[name] for name in record.params} == record.params
        assert [step for step, _ in run.points] == [1, 2, 3, 4]
        assert [run.points[step - 1][1]["val_loss"] for step in (2, 4)] == pytest.approx(record.rungs)
        assert {name: run.results[name] for name in record.metrics} == record.metrics
        assert run.states == [record.state]
    whole = memory.runs["study"]
    assert [row["trial"] for row in whole.tables["front"]] == [record.number for record in study.front()]
    assert whole.points == [(4, {"trained": 4, "paused": 0, "failed": 0, "front": len(study.front())})]
    assert memory.closed == 1


def test_a_resumed_search_repeats_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory.replacing(monkeypatch)
    track(study, BOARD)
    track(study, BOARD)
    assert len(memory.starts) == len(set(memory.starts)) + 1  # the study's own
    other = Memory.replacing(monkeypatch)
    track(study, Choice("mlflow"))  # gets everything
    assert other.runs.keys() == memory.runs.keys()
    known = [json.loads((stores(study) / f"{name}.json").read_text()) for name in ("tensorboard", "mlflow")]
    assert known[0]["runs"] == known[1]["runs"] | {"study": known[0]["runs"]["study"]}


def test_a_running_trial_is_tracked_up_to_the_step_that_is_complete(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory.replacing(monkeypatch)
    study = make_study(sampler="random")
    study.inner.ask()
    follower = StudyFollower(study, BOARD)
    name = run_name(study.records()[0])
    write_curve(study, 0, 2)
    follower.update()
    assert [step for step, _ in memory.runs[name].points] == [1]
    write_curve(study, 0, 3, val=2)  # the held-out loss came after the look
    follower.update()
    assert memory.runs[name].points[1] == (2, {"tokens": 1024, "loss": 5.8, "val_loss": 5.5})
    assert memory.runs[name].states == []


def test_a_trial_of_another_machine_has_its_losses_at_the_rungs(study: Study) -> None:
    record = study.records()[0]
    (study.folder_of(0) / "curve.jsonl").unlink()
    assert new_points(study, record, 0) == [
        (2, {"val_loss": record.rungs[0]}),
        (4, {"val_loss": record.rungs[1]}),
    ]
    assert by_step([]) == []


def test_a_tracker_that_fails_is_warned_of_once_and_the_others_continue(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    monkeypatch.setattr(Choice, "open", lambda choice, *args: memory if choice == BOARD else 1 / 0)
    warnings: list[str] = []
    with tracking(study, [Choice("wandb"), BOARD], warnings.append):
        pass
    assert warnings == ["wandb failed and tracks no longer, while the rest continues: division by zero"]
    assert "study" in memory.runs


def test_a_damaged_record_ends_the_tracking_only(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory.replacing(monkeypatch)
    stores(study).mkdir()
    (stores(study) / "tensorboard.json").write_text("{")
    warnings: list[str] = []
    with tracking(study, [BOARD], warnings.append):
        pass
    assert len(warnings) == 1
    assert "tensorboard.json" in warnings[0]


def test_a_tracker_that_does_not_answer_is_waited_for_only_so_long(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, released = Memory(), Event()
    monkeypatch.setattr("studies.tracking.search.STOP_SECONDS", 0.01)
    monkeypatch.setattr(
        Choice, "open", lambda choice, *args: memory if choice == BOARD or released.wait() else None
    )
    warnings: list[str] = []
    with tracking(study, [Choice("wandb"), BOARD], warnings.append):
        while "study" not in memory.runs and not memory.starts:
            sleep(0.01)
    released.set()
    assert "wandb does not answer; what it lacks comes with the next search of this study" in warnings
