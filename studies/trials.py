"""Taking a trial from a study, and putting it back: who trains what, each architecture once."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from studies.leases import is_alive
from studies.records import (
    ARCHITECTURE,
    BASELINE,
    DONE,
    DUPLICATE,
    HASH,
    LINE,
    METRICS,
    REASON,
    RUNNING,
    WORKER,
    TrialRecord,
)
from studies.study import Study
from surgery.architecture import Architecture

MOST_SKIPS = 300  # suggestions in a row that are infeasible or known before a space counts as exhausted
HEARTBEAT = "heartbeat"
HEARTBEAT_SECONDS = 30
STALE_SECONDS = 150  # a worker on another machine that is silent for so long is taken for dead


@dataclass(frozen=True)
class Assignment:
    """A trial to train."""

    trial: optuna.Trial
    architecture: Architecture


@dataclass(frozen=True)
class Nothing:
    """No trial to take: `wait` while others are still training, else the study is over for `reason`."""

    wait: bool
    reason: str = ""


def take(study: Study, worker: str, target: int | None) -> Assignment | Nothing:
    """The next trial to train. Infeasible and known architectures are answered without training.

    Args:
        worker: the name under which the trial is recorded as running.
        target: trained architectures that the study shall have in all; None is no limit.
    """
    with study.exclusive():
        put_back_orphans(study)
        for _ in range(MOST_SKIPS):
            records = study.records()
            trained = sum(record.trained for record in records)
            running = sum(record.state == RUNNING for record in records)
            if target is not None and trained >= target:
                return Nothing(wait=False, reason=f"{trained} architectures are trained")
            if target is not None and trained + running >= target:
                return Nothing(wait=True)
            assignment = _ask(study, worker, records)
            if assignment is not None:
                return assignment
    if any(record.state == RUNNING for record in study.records()):
        return Nothing(wait=True)
    return Nothing(wait=False, reason=f"the space is exhausted: {MOST_SKIPS} suggestions brought nothing new")


def put_back(study: Study, number: int) -> None:
    """Lets the trial wait to be run again, as the same trial with the same parameters and draws."""
    trial = study.inner.get_trials(deepcopy=False)[number]
    if not trial.state.is_finished():
        study.inner._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def put_back_orphans(study: Study) -> list[int]:
    """Trials that a dead worker left running wait again. Returns their numbers."""
    orphans = [
        trial.number
        for trial in study.inner.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if _is_orphan(study, trial)
    ]
    for number in orphans:
        put_back(study, number)
    return orphans


def _is_orphan(study: Study, trial: FrozenTrial) -> bool:
    worker = trial.user_attrs.get(WORKER)
    if worker is None:
        # Trials are named while the study's lock is held, and so is it now: nobody is coming for this one.
        # With another machine's worker there is no common lock; it gets the time to name it.
        started = trial.datetime_start
        return study.url is None or started is None or time.time() - started.timestamp() > STALE_SECONDS
    if str(worker).startswith(f"{socket.gethostname()}-") or study.url is None:
        return not is_alive(study.workers_folder, str(worker))
    return time.time() - float(trial.user_attrs.get(HEARTBEAT, 0)) > STALE_SECONDS


def _ask(study: Study, worker: str, records: list[TrialRecord]) -> Assignment | None:
    """One suggestion; None when it was answered without training."""
    trial = study.inner.ask()
    trial.set_user_attr(WORKER, worker)
    if study.url is not None:
        trial.set_user_attr(HEARTBEAT, time.time())
    baseline = trial.user_attrs.get(BASELINE)
    if baseline is None:
        architecture = study.space.sample(trial)
    else:
        architecture = study.space.baselines[baseline]
        if study.space.params_of(architecture) is not None:
            study.space.sample(trial)  # lies in the space: the sampler learns from it
    trial.set_user_attr(LINE, architecture.line)
    trial.set_user_attr(HASH, architecture.hash)
    trial.set_user_attr(ARCHITECTURE, architecture.to_dict())
    for constraint in study.space.constraints:
        trial.set_constraint(constraint.exact, constraint.amount(constraint.measure(architecture)))
    same = [
        record for record in records if record.hash == architecture.hash and record.number != trial.number
    ]
    original = next((record for record in same if record.state == DONE), None)
    if original is not None:
        trial.set_user_attr(DUPLICATE, original.number)
        trial.set_user_attr(METRICS, original.metrics)
        study.inner.tell(trial, original.values)
        return None
    if other := next((record for record in same if record.trained or record.state == RUNNING), None):
        trial.set_user_attr(DUPLICATE, other.number)
        study.inner.tell(trial, state=TrialState.PRUNED)
        return None
    # a baseline is trained even where it breaks a constraint: it is what the others are compared with
    if baseline is None and (broken := study.space.violations(architecture)):
        trial.set_user_attr(REASON, "; ".join(map(str, broken)))
        study.inner.tell(trial, state=TrialState.PRUNED)
        return None
    return Assignment(trial, architecture)
