"""Taking a trial to train, and ending one: each architecture once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from studies.search.early_stopping import expected_values, is_held, promotable, promote
from studies.search.requeue import HEARTBEAT, requeue_orphans
from studies.search.search import Search
from studies.stats.seeds import derive_seed
from studies.storage.attributes import (
    ARCHITECTURE,
    BASELINE,
    DUPLICATE,
    HASH,
    LINE,
    METRICS,
    REASON,
    REPEAT_OF,
    SUGGESTED_BY,
    WORKER,
)
from studies.storage.optuna_access import set_system_attr
from studies.study import Study
from studies.study.checkpoints import drop_checkpoint
from studies.study.settings import GAIN
from studies.study.trial_record import DONE, DUPLICATED, INFEASIBLE, RANDOM, RUNNING, WAITING, TrialRecord
from surgery.architecture import Architecture

MOST_SKIPS = 300  # suggestions in a row that are infeasible or known before a space counts as exhausted
FEW_SKIPS = 20  # after so many, a small space is looked through for what is left, and in a large one every
# other suggestion is drawn at random: samplers repeat what they like
# Trained architectures that are drawn at random before a sampler that learns from all trials chooses any; it
# takes `gain` few to tell how unsure it is. Genetic samplers have a random generation of their own.
RANDOM_FIRST = {"tpe": 10, "gp": 10, GAIN: 5}


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


def take(
    search: Search, worker: str, target: int | None, should_stop: Callable[[], bool] | None = None
) -> Assignment | Nothing:
    """The next trial to train: a stopped one whose chance has risen, else a new one.

    Infeasible and known architectures are answered without training.

    Args:
        worker: the name under which the trial is recorded as running.
        target: architectures that the study shall have trained in all, stopped ones among them; None is no
            limit.
        should_stop: ends a long row of suggestions early, with `wait`.
    """
    study = search.study
    with study.exclusive():
        with study.batched_writes():
            requeue_orphans(study)
            records = study.records()
            _promote(search, records, ending=False)
        if search.sampler.looks_at_trials:
            search.sampler.expected = expected_values(search, records)
        while should_stop is None or not should_stop():
            with study.batched_writes():
                assignment = _suggest(search, worker, target)
            if assignment is not None:
                return assignment
    return Nothing(wait=True)


def _suggest(search: Search, worker: str, target: int | None) -> Assignment | Nothing | None:
    """One suggestion, or what is to be done instead; None when it was answered without training."""
    records = search.study.records()
    trained = sum(record.trained for record in records)
    running = sum(record.state == RUNNING for record in records)
    if target is not None and trained + running >= target:
        if _promote(search, records, ending=True):
            return None
        if running:  # it may yet make a stopped one worth it
            return Nothing(wait=True)
        return Nothing(wait=False, reason=f"{trained} architectures are trained")
    skips = _skips(records)
    left = search.facts.untried(records) if skips >= FEW_SKIPS else None
    if not _waits(records) and (left == [] or (left is None and skips >= MOST_SKIPS)):
        if _promote(search, records, ending=True):
            return None
        known = f"all {search.facts.countable} allowed architectures are known"
        reason = known if left == [] else f"{MOST_SKIPS} suggestions brought nothing new"
        return Nothing(wait=running > 0, reason=f"the space is exhausted: {reason}")
    explore = _starts(search, records) or (skips >= FEW_SKIPS and skips % 2 == 0)
    _queue(search, records, left, explore=explore)
    search.sampler.explore = explore
    return admit(search, search.study.inner.ask(), worker, records)


def _promote(search: Search, records: Sequence[TrialRecord], *, ending: bool) -> bool:
    """Queues the stopped trial that goes on next, if one is worth it and nothing waits before it."""
    number = None if _waits(records) else promotable(search, records, ending=ending)
    if number is not None:
        promote(search.study, number)
    return number is not None


def _queue(
    search: Search, records: Sequence[TrialRecord], left: Sequence[dict[str, Any]] | None, *, explore: bool
) -> None:
    """Queues what is tried next where that is not left to Optuna's sampler: one of the few that are `left`,
    or what the sampler `gain` chose."""
    if _waits(records):
        return  # that is taken first, as it is
    if left:
        index = derive_seed(search.settings.seed, "untried", len(records)) % len(left)
        search.study.inner.enqueue_trial(left[index])
    elif search.sampler.name == GAIN and not explore and (params := search.gain.suggest(records)) is not None:
        search.study.inner.enqueue_trial(params, user_attrs={SUGGESTED_BY: GAIN})


def finish(
    study: Study,
    trial: optuna.Trial,
    worker: str,
    attributes: Mapping[str, Any],
    values: Sequence[float] | None,
) -> bool:
    """Ends a trial, as failed when it has no values. False when it was given to another worker meanwhile."""
    with study.exclusive(), study.batched_writes():
        try:
            if not is_held(study, trial, worker):
                return False
            for key, value in attributes.items():
                trial.set_user_attr(key, value)
            study.inner.tell(trial, values, state=TrialState.FAIL if values is None else None)
        except UpdateFinishedTrialError:
            return False
    drop_checkpoint(study, trial.number)  # once the end is stored
    if _changes_front(study, trial):
        study.write_front()
    return True


def _changes_front(study: Study, trial: optuna.Trial) -> bool:
    """Whether front.json may be old now that the trial has ended: a repeat can also take from it."""
    there = (study.folder / "front.json").is_file()
    return (
        not there
        or REPEAT_OF in trial.user_attrs
        or any(record.number == trial.number for record in study.front())
    )


def _waits(records: Sequence[TrialRecord]) -> bool:
    """Whether a trial is queued or was put back: it comes before anything new."""
    return any(record.state == WAITING for record in records)


def _skips(records: Sequence[TrialRecord]) -> int:
    """Suggestions in a row, just before the trial that comes next, that were answered without training.

    It is read from the study, so that an interrupted row goes on where it was.
    """
    records = [record for record in records if record.repeat_of is None]
    upcoming = next((place for place, record in enumerate(records) if record.state == WAITING), len(records))
    count = 0
    while count < upcoming and records[upcoming - 1 - count].state in (INFEASIBLE, DUPLICATED):
        count += 1
    return count


def _starts(search: Search, records: Sequence[TrialRecord]) -> bool:
    """Whether chance still draws: samplers that learn from all trials would count baselines as their start,
    and the study would have no random search to measure them against."""
    known = (INFEASIBLE, DUPLICATED)
    drawn = sum(record.suggested_by == RANDOM and record.state not in known for record in records)
    return drawn < RANDOM_FIRST.get(search.sampler.name, 0)


def admit(
    search: Search, trial: optuna.Trial, worker: str, records: Sequence[TrialRecord]
) -> Assignment | None:
    """Signs a running trial and notes its architecture; None when it was answered without training."""
    study, space = search.study, search.space
    if study.url is not None:
        trial.set_user_attr(HEARTBEAT, time.time())
    trial.set_user_attr(WORKER, worker)
    baseline, original = trial.user_attrs.get(BASELINE), trial.user_attrs.get(REPEAT_OF)
    if original is not None:
        architecture = records[original].build()
        if records[original].params:
            space.sample(trial)  # for whoever reads the storage: they are set already
    elif baseline is None:
        architecture = space.sample(trial)
    else:
        architecture = space.baselines[baseline]
        if space.params_of(architecture) is not None:
            space.sample(trial)  # lies in the space: the sampler learns from it
    if SUGGESTED_BY not in trial.user_attrs:  # else it was put back, and nothing was drawn now
        trial.set_user_attr(SUGGESTED_BY, BASELINE if baseline is not None else search.sampler.source)
    trial.set_user_attr(LINE, architecture.line)
    trial.set_user_attr(HASH, architecture.hash)
    trial.set_user_attr(ARCHITECTURE, architecture.to_dict())
    _set_constraints(study, trial, architecture)
    if original is not None:
        return Assignment(trial, architecture)
    if _answer_known(study, trial, architecture, records):
        drop_checkpoint(study, trial.number)
        return None
    # a baseline is trained even where it breaks a constraint: it is what the others are compared with
    if baseline is None and (broken := space.violations(architecture)):
        trial.set_user_attr(REASON, "; ".join(map(str, broken)))
        study.inner.tell(trial, state=TrialState.PRUNED)
        return None
    return Assignment(trial, architecture)


def _answer_known(
    study: Study, trial: optuna.Trial, architecture: Architecture, records: Sequence[TrialRecord]
) -> bool:
    """Ends the trial when its architecture was taken before: with its result where there is one."""
    same = [
        record for record in records if record.hash == architecture.hash and record.number != trial.number
    ]
    original = next((record for record in same if record.state == DONE), None)
    if original is not None:
        trial.set_user_attr(DUPLICATE, original.number)
        trial.set_user_attr(METRICS, original.metrics)
        study.inner.tell(trial, original.values)
        return True
    other = next((record for record in same if record.trained or record.state == RUNNING), None)
    if other is not None:
        trial.set_user_attr(DUPLICATE, other.number)
        study.inner.tell(trial, state=TrialState.PRUNED)
    return other is not None


def _set_constraints(study: Study, trial: optuna.Trial, architecture: Architecture) -> None:
    """By name, as Optuna 5 has them, and as the unnamed list that Optuna Dashboard 0.21 reads."""
    amounts = study.space.constraint_values(architecture)
    for constraint, amount in zip(study.space.constraints, amounts, strict=True):
        if constraint.exact not in trial.constraints:  # else it was put back: Optuna would warn
            trial.set_constraint(constraint.exact, amount)
    if amounts:
        set_system_attr(study.inner, trial, "constraints", list(amounts))
