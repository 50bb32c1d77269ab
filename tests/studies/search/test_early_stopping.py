"""Stopping at rungs in real studies: who stops, who is promoted; nothing is trained twice or lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from optuna.trial import TrialState

from studies.reporting.dashboard_notes import trial_note
from studies.search import early_stopping as stopping
from studies.search.assignment import Assignment, Nothing, finish, take
from studies.search.early_stopping import expected_values, pause, promotable, reach
from studies.search.requeue import requeue_orphans
from studies.search.stopping_rules import STOPPING_RULES, StoppingRule
from studies.storage.attributes import METRICS
from studies.study import Study
from studies.study.checkpoints import checkpoint_of
from studies.study.leases import Lease
from studies.study.names import CHECKPOINT
from studies.study.record_cache import RecordCache
from studies.surrogates.observations import Floats, Observations
from studies.training.step import TrainStep
from studies.workers.worker import work
from tests.studies.conftest import SPACE, MakeStudy, outcome, search_of

Quiet = Callable[[str], None]
TARGET = 10
FREE = SPACE.replace("[params <= 13k]", "[]")  # every suggestion is feasible: trials are numbered as taken
ALONE = FREE.replace("dense, hdpl-paper, lt2-looped", "")


class Scripted(StoppingRule):
    """Worth as a test wants it, by trial number; below a half it is nothing."""

    name, summary = "scripted", "for tests"

    def __init__(self, chances: dict[int, float]) -> None:
        self.by_number = chances

    def score(self, observations: Observations, rows: Sequence[int]) -> Floats:
        numbers = observations.numbers[list(rows)]
        result = np.array([self.by_number.get(int(number), 1.0) for number in numbers])
        return np.where(result >= 0.5, result, 0.0)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Chances by trial number, to be filled in; 1 where there is none."""
    chances: dict[int, float] = {}
    monkeypatch.setitem(STOPPING_RULES, "scripted", Scripted(chances))
    return chances


def test_a_stopped_trial_waits_for_its_chance_and_goes_on_where_it_was(
    make_study: MakeStudy, scripted: dict[int, float], quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_study("whole", stopping="none", text=FREE)
    work(whole, target=5, device="cpu", log=quiet)
    study = make_study("stopped", stopping="scripted", text=FREE)
    scripted.update({3: 0.2, 4: 0.3})
    work(study, target=5, device="cpu", log=quiet)
    assert [record.state for record in study.records() if record.counted] == ["trained"] * 3 + ["paused"] * 2
    halves = [study.record(number) for number in (3, 4)]
    assert [(len(item.rungs), item.tokens, item.worker) for item in halves] == [(1, 1024, "")] * 2
    assert checkpoint_of(study, 3).is_file()
    note = trial_note(study, halves[0])
    assert f"{halves[0].rungs[0]:.4f} at 50% of its tokens" in note
    assert "val_bpb" in note
    steps = count_steps(monkeypatch)
    scripted[4] = 0.9
    lines: list[str] = []
    work(study, target=5, device="cpu", log=lines.append)
    assert lines[0].startswith("trial 4: resuming after rung 1")
    assert len(steps) == 2  # of its four: the first two are not trained again
    assert study.record(4).state == "trained"
    assert study.record(3).state == "paused"
    assert not checkpoint_of(study, 4).is_file()
    scripted[3] = 1.0
    work(study, target=5, device="cpu", log=quiet)
    assert outcome(study) == outcome(whole)
    assert [record.tokens for record in study.records() if record.counted] == [2048] * 5


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every optimizer step of a training."""
    steps: list[int] = []
    step = TrainStep.step

    def counted(self: TrainStep, number: int, *args: object) -> None:
        steps.append(number)
        step(self, number, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainStep, "step", counted)
    return steps


def test_the_papers_own_designs_are_never_stopped(
    make_study: MakeStudy, scripted: dict[int, float], quiet: Quiet
) -> None:
    scripted.update(dict.fromkeys(range(100), 0.0))
    study = make_study(stopping="scripted", text=FREE)
    work(study, target=6, device="cpu", log=quiet)
    for record in study.records():
        if record.counted:
            assert record.state == ("trained" if record.baseline else "paused")


def test_the_search_ends_only_when_nothing_that_stopped_deserves_to_go_on(
    make_study: MakeStudy, scripted: dict[int, float]
) -> None:
    study = make_study(stopping="scripted", text=ALONE)
    with Lease(study.workers_folder) as one, Lease(study.workers_folder) as other:
        scripted[0] = 0.0
        first, second = taken(study, one.worker), taken(study, other.worker)
        assert not reach(search_of(study), first.trial, one.worker, [5.0], 1024, {})
        (study.trial_folder(0) / CHECKPOINT).touch()
        assert pause(search_of(study), first.trial, one.worker)
        assert isinstance(waiting := take(search_of(study), one.worker, 2), Nothing)
        assert waiting.wait  # the other may still change it
        assert requeue_orphans(study) == []
        scripted[0] = 1.0  # what the other one has shown meanwhile
        again = taken(study, one.worker, 2)
        assert again.trial.number == 0
        assert study.record(0).passed == 1
        scripted[0] = 0.0
        assert reach(search_of(study), again.trial, one.worker, [5.0], 1024, {})  # had there been no file
        assert finish(study, again.trial, one.worker, {METRICS: {"val_loss": 4.0}}, [4.0, 1.0, 1.0])
        assert finish(study, second.trial, other.worker, {METRICS: {"val_loss": 4.0}}, [4.0, 1.0, 1.0])
        assert isinstance(ended := take(search_of(study), one.worker, 2), Nothing)
        assert not ended.wait


def test_who_lost_its_trial_can_neither_stop_nor_judge_it(
    make_study: MakeStudy, scripted: dict[int, float]
) -> None:
    study = make_study(stopping="scripted", text=ALONE)
    scripted[0] = 0.0
    with Lease(study.workers_folder) as dead:
        first = taken(study, dead.worker)
    with Lease(study.workers_folder) as alive:
        taken(study, alive.worker)
        assert reach(search_of(study), first.trial, dead.worker, [5.0], 1024, {})
        assert study.record(0).rungs == ()
        assert not pause(search_of(study), first.trial, dead.worker)
        assert study.record(0).state == "running"


def test_a_promoted_trial_whose_worker_dies_goes_on_from_its_checkpoint(
    make_study: MakeStudy, scripted: dict[int, float], quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(stopping="scripted", text=FREE)
    scripted[3] = 0.0
    work(study, target=4, device="cpu", log=quiet)
    scripted[3] = 1.0
    with Lease(study.workers_folder) as dead:
        assert taken(study, dead.worker, 4).trial.number == 3
    steps = count_steps(monkeypatch)
    work(study, target=4, device="cpu", log=quiet)
    assert study.record(3).state == "trained"
    assert len(steps) == 2
    whole = make_study("whole", stopping="none", text=FREE)
    work(whole, target=4, device="cpu", log=quiet)
    assert outcome(study) == outcome(whole)


def test_without_its_checkpoint_a_trial_is_stopped_for_good(
    make_study: MakeStudy, scripted: dict[int, float], quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "MOST_CHECKPOINTS", 2)
    scripted.update({3: 0.1, 4: 0.3, 5: 0.2})
    study = make_study(stopping="scripted", text=FREE)
    work(study, target=6, device="cpu", log=quiet)
    assert [checkpoint_of(study, number).is_file() for number in (3, 4, 5)] == [False, True, True]
    scripted[3] = 1.0
    assert promotable(search_of(study), study.records(), ending=True) is None
    assert [record.state for record in study.records() if record.counted][3:] == ["paused"] * 3


def test_samplers_learn_what_stopped_trials_would_have_become(
    make_study: MakeStudy, scripted: dict[int, float], quiet: Quiet
) -> None:
    text = FREE.replace("val_loss: min", "val_bpb: min")
    study = make_study(stopping="scripted", text=text)
    scripted.update({6: 0.0, 7: 0.0})
    work(study, target=8, device="cpu", log=quiet)
    records = study.records()
    stopped = [record for record in records if record.state == "paused"]
    assert len(stopped) == 2
    values = expected_values(search_of(study), records)
    assert sorted(values) == [record.number for record in stopped]
    for record in stopped:
        bpb, params, flops = values[record.number]
        assert bpb < record.measured["val_bpb"]
        exact = search_of(study).facts.costs(record)
        assert (params, flops) == (exact["params"], exact["decode_flops@64"])
    search_of(study).sampler.expected = values
    shown = (
        search_of(study).sampler._view(study.inner)._get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    )
    assert [trial.values for trial in shown if trial.number in values] == list(values.values())
    stored = study.inner.get_trials(deepcopy=False)
    assert all(stored[number].state == TrialState.RUNNING and not stored[number].values for number in values)


def test_objectives_that_no_rung_tells_stop_nothing(
    make_study: MakeStudy, scripted: dict[int, float], quiet: Quiet
) -> None:
    scripted.update(dict.fromkeys(range(100), 0.0))
    text = FREE.replace("val_loss: min", "train_tokens_per_s: max")
    study = make_study(stopping="scripted", text=text)
    work(study, target=5, device="cpu", log=quiet)
    assert {record.state for record in study.records() if record.counted} == {"trained"}


def test_a_probe_is_known_at_the_rungs_and_trained_once(
    make_study: MakeStudy, scripted: dict[int, float], quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = FREE.replace("params: min", "recall: max").replace(
        "eval_tokens: 1024",
        "eval_tokens: 1024, recall: {pairs: 2, seq_len: 12, alphabet: 8, steps: 3}",
    )
    study = make_study(stopping="scripted", text=text)
    scripted[3] = 0.0
    work(study, target=4, device="cpu", log=quiet)
    score = study.record(3).measured["recall"]
    assert search_of(study).observe(study.records()).costs[-1].tolist()[0] == -score
    scripted[3] = 1.0

    def again(*_: object) -> float:
        raise AssertionError("trained a second time")

    monkeypatch.setattr("studies.workers.worker.train_probe", again)
    work(study, target=4, device="cpu", log=quiet)
    assert study.record(3).state == "trained"
    assert study.record(3).metrics["recall"] == score


def test_a_study_of_an_older_version_has_no_rungs(make_study: MakeStudy, quiet: Quiet) -> None:
    study = make_study(stopping="forecast")
    work(study, target=3, device="cpu", log=quiet)
    for trial in study.inner.get_trials(deepcopy=False):
        trial.user_attrs.pop("rungs")
    study._cache = RecordCache(study.inner)  # read again
    observations = search_of(study).observe(study.records())
    assert observations.finished.all()
    assert np.isnan(observations.curves[:, 0]).all()
    work(study, target=TARGET, device="cpu", log=quiet)
    assert sum(record.counted for record in study.records()) == TARGET


@pytest.mark.parametrize(
    "name",
    ["forecast", *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in STOPPING_RULES
        if name not in ("forecast", "scripted")
    )],
)  # fmt: skip
def test_every_stopping_rule_runs_a_study(make_study: MakeStudy, quiet: Quiet, name: str) -> None:
    text = SPACE.replace("rungs: [0.5, 1.0]", "rungs: [0.25, 0.5, 1.0]")
    study = make_study(stopping=name, text=text)
    lines: list[str] = []
    work(study, target=14, device="cpu", log=lines.append)
    records = [record for record in study.records() if record.counted]
    assert len(records) == 14
    for record in records:
        folder = study.trial_folder(record.number)
        curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
        held_out = [point["val_loss"] for point in curve if "val_loss" in point]
        assert list(record.rungs) == held_out
        assert record.tokens == {1: 512, 2: 1024, 3: 2048}[len(held_out)]
        assert (folder / CHECKPOINT).is_file() == (record.state == "paused")
        steps = [point["step"] for point in curve if "loss" in point]
        assert len(steps) == len(set(steps))


def taken(study: Study, worker: str, target: int | None = None) -> Assignment:
    assignment = take(search_of(study), worker, target)
    assert isinstance(assignment, Assignment)
    return assignment
