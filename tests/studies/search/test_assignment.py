"""Taking, ending and requeueing trials; races between workers; storages by URL; many trials."""

from __future__ import annotations

import cProfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import optuna
import pytest
from optuna.trial import TrialState

from studies.search.assignment import Assignment, Nothing, finish, take
from studies.search.requeue import HEARTBEAT, MOST_DEATHS, STALE_SECONDS, beat, requeue, requeue_orphans
from studies.storage.attributes import WORKER
from studies.storage.opening import open_storage
from studies.study import Study
from studies.study.leases import Lease
from studies.workers.supervisor import Supervisor
from studies.workers.worker import work
from surgery.config.problems import UserError
from tests.studies.conftest import SPACE, MakeStudy, outcome, search_of
from tests.studies.held import Hold

Quiet = Callable[[str], None]
T = TypeVar("T")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


def taken(study: Study, worker: str) -> Assignment:
    assignment = take(search_of(study), worker, None)
    assert isinstance(assignment, Assignment)
    return assignment


def test_two_workers_take_different_trials(make_study: MakeStudy) -> None:
    study = make_study()
    with Lease(study.workers_folder) as one, Lease(study.workers_folder) as other:
        first, second = taken(study, one.worker), taken(Study.open(str(study.folder)), other.worker)
        assert (first.trial.number, second.trial.number) == (0, 1)
        assert requeue_orphans(study) == []
        assert take(search_of(study), one.worker, 2) == Nothing(wait=True)


def test_a_dead_workers_trial_is_taken_again_as_it_was(make_study: MakeStudy) -> None:
    study = make_study(text=SPACE.replace("baselines: [dense, hdpl-paper, lt2-looped]", "baselines: []"))
    with Lease(study.workers_folder) as dead:
        first = taken(study, dead.worker)
        params = dict(first.trial.params)
    with Lease(study.workers_folder) as alive:
        again = taken(study, alive.worker)
        assert again.trial.number == first.trial.number
        assert again.trial.params == params
        assert again.architecture == first.architecture
        assert study.record(again.trial.number).worker == alive.worker
        assert not finish(study, first.trial, dead.worker, {}, [1.0, 2.0, 3.0])  # too late
        assert study.record(first.trial.number).state == "running"
        assert finish(study, again.trial, alive.worker, {"note": "mine"}, [4.0, 5.0, 6.0])
        assert not finish(study, first.trial, dead.worker, {}, None)
        assert study.record(first.trial.number).values == (4.0, 5.0, 6.0)


def test_a_trial_without_a_worker_is_requeued(make_study: MakeStudy) -> None:
    study = make_study()
    trial = study.inner.ask()  # its worker died before it signed
    assert requeue_orphans(study) == [trial.number]


def test_a_trial_that_kills_every_worker_has_failed(make_study: MakeStudy) -> None:
    study = make_study()
    for _ in range(MOST_DEATHS):
        with Lease(study.workers_folder) as dead:
            assert taken(study, dead.worker).trial.number == 0
    with Lease(study.workers_folder) as alive:
        assert taken(study, alive.worker).trial.number == 1
    assert study.record(0).state == "failed"
    assert study.record(0).reason == "3 workers died training it"


def test_put_back_forgets_the_worker(make_study: MakeStudy) -> None:
    study = make_study()
    with Lease(study.workers_folder) as lease:
        requeue(study, taken(study, lease.worker).trial.number)
    assert study.record(0).state == "waiting"
    assert study.record(0).worker == ""


def test_constraints_are_seen_by_name_and_by_the_dashboard(make_study: MakeStudy, quiet: Quiet) -> None:
    text = SPACE.replace("[params <= 13k]", "[params <= 12.5k, decode_flops@64 <= 60k]")
    study = make_study(text=text, sampler="random")
    work(study, target=5, device="cpu", log=quiet)
    states = set()
    for trial, record in zip(study.inner.trials, study.records(), strict=True):
        amounts = list(study.space.constraint_values(record.build()))
        assert trial.system_attrs["constraints"] == amounts  # what Optuna Dashboard 0.21 reads
        assert trial.constraints["params <= 12500"] == amounts[0]
        assert trial.constraints["decode_flops@64 <= 60000"] == amounts[1]
        states.add(trial.state)
    assert {TrialState.PRUNED, TrialState.COMPLETE} <= states
    from optuna_dashboard._serializer import serialize_frozen_trial

    shown = serialize_frozen_trial(study.inner._study_id, study.inner.trials[-1], {})
    assert len(shown["constraints"]) == 2


def test_a_row_of_suggestions_can_be_stopped(make_study: MakeStudy) -> None:
    study = make_study(text=SPACE.replace("baselines: [dense, hdpl-paper, lt2-looped]", "baselines: []"))
    assert take(search_of(study), "w", None, should_stop=lambda: True) == Nothing(wait=True)
    assert study.records() == []


def test_waiting_for_the_last_trial_makes_no_more_suggestions(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.search.assignment.MOST_SKIPS", 12)
    study = make_study(
        text=SPACE[: SPACE.index("  hdpl.projections")]
        + "  loop.count: {range: [1, 2]}\n"
        + SPACE[SPACE.index("constraints") :].replace("13k", "20k").replace("[dense, hdpl-paper, ", "[")
    )
    with Lease(study.workers_folder) as one, Lease(study.workers_folder) as other:
        for number in range(2):  # the baseline and one of the two in the space
            finish(study, taken(study, one.worker).trial, one.worker, {}, [1.0 + number, 1.0, 1.0])
        last = taken(study, one.worker)
        waiting = [take(search_of(study), other.worker, None) for _ in range(3)]
        assert all(isinstance(item, Nothing) and item.wait for item in waiting)
        assert len(study.records()) == last.trial.number + 1 + 12
        finish(study, last.trial, one.worker, {}, [3.0, 1.0, 1.0])
        end = take(search_of(study), other.worker, None)
        assert isinstance(end, Nothing)
        assert not end.wait
        assert "exhausted" in end.reason


def test_stuck_samplers_explore(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.search.assignment.FEW_SKIPS", 2)
    monkeypatch.setattr("studies.search.assignment.RANDOM_FIRST", {})
    study = make_study(text=SPACE.replace("13k", "12.2k"))
    explored = []
    sample = type(study.space).sample

    def spy(self: object, trial: optuna.Trial) -> object:
        explored.append(search_of(study).sampler.explore)
        return sample(self, trial)  # type: ignore[arg-type]

    monkeypatch.setattr(type(study.space), "sample", spy)
    with Lease(study.workers_folder) as lease:
        for _ in range(3):
            finish(study, taken(study, lease.worker).trial, lease.worker, {}, [1.0, 2.0, 3.0])
        explored.clear()
        take(search_of(study), lease.worker, None)
    assert len(explored) > 4  # about one suggestion in ten is feasible
    assert explored == [False, False, *([True, False] * 300)][: len(explored)]


def test_a_folder_that_cannot_be_written_ends_the_work(make_study: MakeStudy, quiet: Quiet) -> None:
    study = make_study()
    (study.folder / "trials").write_text("not a folder")
    with pytest.raises(UserError, match="can't continue") as caught:
        work(study, target=1, device="cpu", log=quiet)
    assert "trials" in str(caught.value)
    assert {record.state for record in study.records()} == {"waiting"}
    (study.folder / "trials").unlink()
    assert work(study, target=1, device="cpu", log=quiet) == "1 architectures are trained"


def test_a_study_that_cannot_be_made_leaves_nothing(make_study: MakeStudy, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(UserError, match="can't continue"):
        make_study()
    (tmp_path / "runs").unlink()
    with pytest.raises(UserError, match="storage"):
        make_study(url="sqlite:////proc/no/such.db")
    assert not (tmp_path / "runs" / "study").exists()


def test_other_storages_give_the_same_study(make_study: MakeStudy, url: str, quiet: Quiet) -> None:
    embedded, elsewhere = make_study("embedded"), make_study("elsewhere", url=url)
    work(embedded, target=5, device="cpu", log=quiet)
    work(elsewhere, target=3, device="cpu", log=quiet)
    again = Study.open("elsewhere", elsewhere.folder.parent)  # the folder knows where
    assert again.url == url
    work(again, target=5, device="cpu", log=quiet)
    assert outcome(again) == outcome(embedded)


def test_two_workers_on_a_database(make_study: MakeStudy, url: str, hold: Hold) -> None:
    study = make_study(url=url)
    supervisor = Supervisor(study, workers=2, target=8, device="cpu")
    hold.start()
    for snapshot in supervisor.watch():
        last = snapshot
        if len(hold.waiting()) == 2:
            hold.release()
    assert not supervisor.failed, supervisor.last_output()
    assert last.count("trained") == 8
    assert len({record.worker for record in last.records if record.state == "trained"}) == 2


@pytest.mark.parametrize("silent", [0, STALE_SECONDS - 20, STALE_SECONDS + 20])
def test_workers_of_other_machines_are_judged_by_their_heartbeat(
    make_study: MakeStudy, url: str, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(url=url)
    trial = taken(study, "far-away-4711-ab12cd").trial
    now = time.time() + silent
    monkeypatch.setattr(time, "time", lambda: now)
    expected = [trial.number] if silent > STALE_SECONDS else []
    assert requeue_orphans(study) == expected


def test_a_heartbeat_keeps_a_trial(make_study: MakeStudy, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(url=url)
    trial = taken(study, "far-away-4711-ab12cd").trial
    later = time.time() + 10 * STALE_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    beat(study, trial)
    assert requeue_orphans(study) == []
    assert study.inner.trials[0].user_attrs[HEARTBEAT] == later


def test_a_retried_trial_is_not_put_back_before_it_is_signed(make_study: MakeStudy, url: str) -> None:
    """Between Optuna's ask and the worker's name another machine may look: the old name must be gone."""
    study = make_study(url=url)
    first = taken(study, "far-away-4711-ab12cd").trial
    requeue(study, first.number)
    again = study.inner.ask()
    assert again.number == first.number
    assert again.user_attrs[WORKER] is None
    assert requeue_orphans(study) == []


def test_same_machine_other_folder_is_another_machine(
    make_study: MakeStudy, url: str, tmp_path: Path
) -> None:
    study = make_study(url=url)
    other = Study.open("study", tmp_path / "other-runs", url)
    with Lease(other.workers_folder) as lease:
        taken(other, lease.worker)
        assert requeue_orphans(study) == []
    with Lease(study.workers_folder) as lease:
        taken(study, lease.worker)
    assert requeue_orphans(study) == []  # released without a word: only its heartbeat can tell


def test_a_beat_for_a_lost_trial_is_no_error(make_study: MakeStudy, url: str) -> None:
    study = make_study(url=url)
    trial = taken(study, "far-away-4711-ab12cd").trial
    study.inner.tell(trial.number, [1.0, 2.0, 3.0])
    beat(study, trial)


def test_another_storage_than_the_studys_is_refused(make_study: MakeStudy, url: str) -> None:
    study = make_study()
    with pytest.raises(UserError, match="exists in another storage"):
        Study.create_or_resume("study", study.space, study.settings, study.folder.parent, url)
    moved = make_study("moved", url=url)
    with pytest.raises(UserError, match="exists in another storage"):
        Study.create_or_resume("moved", study.space, study.settings, moved.folder.parent, url + "2")


def counted(work: Callable[[], T]) -> tuple[T, int]:
    """The return value, and the number of function calls: as good as the time, on a busy machine too."""
    profile = cProfile.Profile()
    result = profile.runcall(work)
    return result, sum(entry.callcount for entry in profile.getstats())


def test_five_thousand_trials(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna.storages.journal._file.os.fsync", lambda descriptor: None)
    study = make_study(text=SPACE.replace("13k", "20k"))
    recorder = optuna.create_study(directions=["minimize"] * 3)  # in memory
    for seed in range(50):
        trial = recorder.ask()
        architecture = study.space.sample(trial)
        trial.set_user_attr("hash", architecture.hash)
        trial.set_constraint("params <= 20000", -0.5)
        recorder.tell(trial, [float(seed), 50.0 - seed, 1.0])
    known = recorder.trials
    for number in range(5000):
        study.inner.add_trial(known[number % 50])
    opened = Study.open("study", study.folder.parent)
    with Lease(opened.workers_folder) as lease:
        for _ in range(3):  # the baselines, and the records' cache
            finish(opened, taken(opened, lease.worker).trial, lease.worker, {}, [1.0, 1.0, 1.0])
        counts = []
        for _ in range(5):
            before = len(opened.records())
            assignment, count = counted(lambda: taken(opened, lease.worker))
            counts.append(count / (len(opened.records()) - before))
            finish(opened, assignment.trial, lease.worker, {}, [1.0, 1.0, 1.0])
    assert len(opened.records()) >= 5008
    assert min(counts) < 100_000  # per suggestion, feasible or not
    front, count = counted(opened.front)
    assert front
    assert count < 50_000  # not a call for each pair of them


def test_an_open_dashboard_sees_what_workers_write(make_study: MakeStudy, quiet: Quiet) -> None:
    study = make_study()
    dashboard = open_storage(study.folder, None)
    work(study, target=2, device="cpu", log=quiet)
    assert [trial.state.name for trial in dashboard.get_all_trials(0)] == ["COMPLETE", "COMPLETE", "WAITING"]
