"""Leftovers of dead workers: checkpoints, deaths that are counted and forgiven, open decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from studies.data import TokenData
from studies.search.assignment import Assignment, finish, take
from studies.search.early_stopping import pause, reach
from studies.search.requeue import MOST_DEATHS, requeue_orphans
from studies.storage.attributes import DEATHS, METRICS, REASON
from studies.study import Study
from studies.study.checkpoints import checkpoint_of
from studies.study.leases import Lease, dead
from studies.study.names import CHECKPOINT
from studies.training.loop import Rung, Stopped, train
from studies.workers.proxy import train_settings
from surgery.architecture import Architecture
from surgery.model import HybridLM
from tests.studies.conftest import MakeStudy, search_of

DONE = {METRICS: {"val_loss": 4.0, "params": 1.0, "decode_flops@64": 1.0}}
VALUES = [4.0, 1.0, 1.0]


def die(lease: Lease) -> None:
    """End a lease as the system does when its worker is killed: files stay."""
    lease._lock.release()


def taken(study: Study, lease: Lease) -> Assignment:
    assignment = take(search_of(study), lease.worker, None)
    assert isinstance(assignment, Assignment)
    return assignment


def leave_checkpoint(study: Study, number: int, suffix: str = ".pt") -> Path:
    path = (study.trial_folder(number) / CHECKPOINT).with_suffix(suffix)
    path.write_bytes(b"weights")
    return path


def checkpoints(study: Study) -> list[str]:
    return sorted(str(path.relative_to(study.folder)) for path in study.folder.rglob("checkpoint.*"))


def test_a_trial_failed_for_good_drops_its_checkpoint(make_study: MakeStudy) -> None:
    study = make_study()
    for _ in range(MOST_DEATHS):
        lease = Lease(study.workers_folder)
        assert taken(study, lease).trial.number == 0
        leave_checkpoint(study, 0)
        leave_checkpoint(study, 0, ".tmp")
        die(lease)
    with study.exclusive():
        assert requeue_orphans(study) == [0]
    assert study.record(0).state == "failed"
    assert checkpoints(study) == []


def test_a_worker_killed_before_it_deleted_a_checkpoint(make_study: MakeStudy) -> None:
    """Its trial is finished; others that wait or are paused keep theirs."""
    study = make_study()
    first, second = Lease(study.workers_folder), Lease(study.workers_folder)
    done, paused = taken(study, first), taken(study, second)
    reach(search_of(study), paused.trial, second.worker, [5.0], 1024, {})
    leave_checkpoint(study, paused.trial.number)
    assert pause(search_of(study), paused.trial, second.worker)
    waits = taken(study, second)
    kept = leave_checkpoint(study, waits.trial.number)
    assert finish(study, done.trial, first.worker, DONE, VALUES)
    leave_checkpoint(study, done.trial.number)
    die(first)
    die(second)
    assert len(dead(study.workers_folder)) == 2
    with study.exclusive():
        requeue_orphans(study)
    assert dead(study.workers_folder) == []
    assert checkpoint_of(study, paused.trial.number).is_file()
    assert kept.is_file()
    assert not checkpoint_of(study, done.trial.number).exists()


def test_half_a_checkpoint_of_a_dead_worker_is_deleted(make_study: MakeStudy) -> None:
    study = make_study()
    with Lease(study.workers_folder) as alive:
        lease = Lease(study.workers_folder)
        broken, running = taken(study, lease), taken(study, alive)
        leave_checkpoint(study, broken.trial.number, ".tmp")
        writing = leave_checkpoint(study, running.trial.number, ".tmp")
        (study.folder / "trials" / "notes").mkdir()
        (study.folder / "trials" / "notes" / "checkpoint.tmp").touch()
        die(lease)
        with study.exclusive():
            requeue_orphans(study)
        assert checkpoints(study) == [str(writing.relative_to(study.folder)), "trials/notes/checkpoint.tmp"]


def test_deaths_are_forgiven_at_a_new_rung_alone(make_study: MakeStudy) -> None:
    """On machines that are pre-empted, many workers die with a trial that gets on all the same. One that dies
    at the same point each time does not get on, though it passes the rungs before that point again."""
    study = make_study()

    def life(*losses: float) -> int:
        lease = Lease(study.workers_folder)
        assignment = taken(study, lease)
        for count in range(len(losses)):
            reach(
                search_of(study), assignment.trial, lease.worker, losses[: count + 1], 1024 * (count + 1), {}
            )
        die(lease)
        return assignment.trial.number

    for _ in range(MOST_DEATHS - 1):
        assert life() == 0
    assert life(5.0) == 0  # the last one that it may take with it, had it not passed a rung
    with study.exclusive():
        requeue_orphans(study)
    assert study.record(0).state == "waiting"
    assert study.trial(0).user_attrs[DEATHS] == 1
    for _ in range(MOST_DEATHS - 1):
        assert life(5.0) == 0
    with study.exclusive():
        requeue_orphans(study)
    assert study.record(0).state == "failed"
    assert study.trial(0).user_attrs[REASON] == f"{MOST_DEATHS} workers died training it"


def descend(tokens: TokenData, space: Any, checkpoint: Path, **options: Any) -> list[float]:
    torch.manual_seed(0)
    model = HybridLM(Architecture(space.backbone))
    result = train(
        model, tokens, train_settings(space, 0), seed=0, device=torch.device("cpu"), checkpoint=checkpoint,
        **options,
    )  # fmt: skip
    return list(result.losses)


@pytest.mark.parametrize("continues", [False, True])
def test_a_decision_that_a_death_cut_off_is_made_again(
    tokens: TokenData, space: Any, tmp_path: Path, continues: bool
) -> None:
    """A checkpoint was written, and the study was not told: the run may not continue without being asked."""
    path, asked = tmp_path / CHECKPOINT, list[Rung]()

    def at_rung(rung: Rung) -> bool:
        asked.append(rung)
        return continues and len(asked) > 1

    with pytest.raises(Stopped):
        descend(tokens, space, path, at_rung=at_rung)
    before = path.read_bytes()
    whole = descend(tokens, space, tmp_path / "none.pt")
    if continues:
        assert descend(tokens, space, path, at_rung=at_rung, decided=0) == whole
        assert len(asked) == 1 + 1 + 1  # at the rung, again there, at the end
    else:
        with pytest.raises(Stopped):
            descend(tokens, space, path, at_rung=at_rung, decided=0)
        assert len(asked) == 2
    assert asked[1].losses == asked[0].losses
    assert asked[1].val_bpb == asked[0].val_bpb
    assert path.read_bytes() == before
    # a run that was let past the rung is not asked about it again
    assert descend(tokens, space, path, at_rung=lambda rung: len(rung.losses) > 1, decided=1) == whole
