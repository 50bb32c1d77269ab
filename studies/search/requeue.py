"""Requeueing trials whose worker was interrupted or died, and the heartbeats by which others know."""

from __future__ import annotations

import socket
import time

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from studies.storage.attributes import DEATHS, REASON, STOPPED_AT, WORKER
from studies.storage.optuna_access import set_attr, set_state
from studies.study import Study
from studies.study.checkpoints import drop_checkpoint, drop_leftovers
from studies.study.leases import clear_dead, dead, host_of, is_alive

MOST_DEATHS = 3  # workers that may die training one trial, as when memory runs out, before it fails
HEARTBEAT = "heartbeat"
HEARTBEAT_SECONDS = 30
STALE_SECONDS = 150  # without a heartbeat for so long, a worker on another machine counts as dead


def beat(study: Study, trial: optuna.Trial) -> None:
    """Show workers on other machines that this trial is being trained."""
    try:
        trial.set_user_attr(HEARTBEAT, time.time())
    except UpdateFinishedTrialError:  # reassigned to another worker: `finish` reports it
        return


def requeue(study: Study, number: int) -> None:
    """Set the trial waiting, to be run again as the same trial with the same parameters and draws."""
    trial = study.trial(number)
    if not trial.state.is_finished():
        # Without the old name, so that it is not requeued again before its next worker has signed.
        set_attr(study.inner, trial, WORKER, None)
        set_state(study.inner, trial, TrialState.WAITING)


def requeue_orphans(study: Study) -> list[int]:
    """Requeue running trials whose worker is dead; fail a trial after MOST_DEATHS such deaths without a new
    rung. Checkpoints that dead workers left and no trial needs are deleted.

    Returns the trials' numbers. Only inside `exclusive`.
    """
    orphans = [
        trial
        for trial in study.inner.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if is_orphan(study, trial)
    ]
    for trial in orphans:
        deaths = trial.user_attrs.get(DEATHS, 0) + 1
        set_attr(study.inner, trial, DEATHS, deaths)
        if deaths < MOST_DEATHS:
            requeue(study, trial.number)
        else:
            set_attr(study.inner, trial, REASON, f"{deaths} workers died training it")
            study.inner.tell(trial.number, state=TrialState.FAIL)
            drop_checkpoint(study, trial.number)
    if dead(study.workers_folder):
        drop_leftovers(study)
        clear_dead(study.workers_folder)  # last: while a lease is there, this is done again
    return [trial.number for trial in orphans]


def is_orphan(study: Study, trial: FrozenTrial) -> bool:
    """Return whether the worker of a running trial is dead."""
    if trial.user_attrs.get(STOPPED_AT) is not None:
        return False  # paused at a rung: it has no worker, and needs none
    worker = trial.user_attrs.get(WORKER)
    alive = is_alive(study.workers_folder, worker) if worker else None
    if study.url is None:
        # Every worker has its lease in this folder. A trial without a name was taken by one that died before
        # it signed: signing happens while the study's lock is held, which is held here.
        return not alive
    if alive is not None and host_of(str(worker)) == socket.gethostname():
        return not alive
    # a worker of another machine or folder, with which there is no common lock
    started = trial.datetime_start.timestamp() if trial.datetime_start is not None else 0.0
    heard = float(trial.user_attrs.get(HEARTBEAT, 0.0)) if worker else 0.0
    return time.time() - max(started, heard) > STALE_SECONDS
