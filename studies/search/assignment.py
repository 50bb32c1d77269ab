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
# other suggestion is drawn at random: samplers repeat their favourites
# Trained architectures that are drawn at random before a sampler that learns from all trials chooses any;
# `gain` needs few to estimate how unsure it is. Genetic samplers have a random generation of their own.
RANDOM_FIRST = {"tpe": 10, "gp": 10, GAIN: 5}


@dataclass(frozen=True)
class Assignment:
    """A trial to train, and its architecture."""

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
    """Return the next trial to train: a paused one whose score has become positive, else a new one.

    Infeasible and known architectures are answered without training.

    Args:
        worker: the name under which the trial is recorded as running.
        target: architectures that the study shall have trained in all, paused ones among them; None is no
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
    """Return one suggestion, or what to do instead; None if it was answered without training."""
    records = search.study.records()
    trained = sum(record.counted for record in records)
    running = sum(record.state == RUNNING for record in records)
    if target is not None and trained + running >= target:
        if _promote(search, records, ending=True):
            return None
        if running:  # its result may yet let a paused one resume
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
    """Queue the paused trial to resume next, if there is one and no trial waits; return whether it was."""
    number = None if _waits(records) else promotable(search, records, ending=ending)
    if number is not None:
        promote(search.study, number)
    return number is not None


def _queue(
    search: Search, records: Sequence[TrialRecord], left: Sequence[dict[str, Any]] | None, *, explore: bool
) -> None:
    """Queue what is tried next, unless Optuna's sampler chooses it.

    It is one of the few untried architectures that are `left`, or the choice of the search's chooser of
    designs or of the sampler `gain`.
    """
    if _waits(records):
        return  # the waiting trial is taken first, unchanged
    if left:
        index = derive_seed(search.settings.seed, "untried", len(records)) % len(left)
        search.study.inner.enqueue_trial(left[index])
    elif search.chooser is not None and (design := search.chooser.suggest(records)) is not None:
        search.study.inner.enqueue_trial(design.params, user_attrs=design.attributes)
    elif search.sampler.name == GAIN and not explore and (params := search.gain.suggest(records)) is not None:
        search.study.inner.enqueue_trial(params, user_attrs={SUGGESTED_BY: GAIN})


def finish(
    study: Study,
    trial: optuna.Trial,
    worker: str,
    attributes: Mapping[str, Any],
    values: Sequence[float] | None,
) -> bool:
    """End a trial, as failed if it has no values. False: it was reassigned to another worker."""
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
    """Return whether the end of this trial may change front.json: a replicate can also remove from it."""
    there = (study.folder / "front.json").is_file()
    return (
        not there
        or REPEAT_OF in trial.user_attrs
        or any(record.number == trial.number for record in study.front())
    )


def _waits(records: Sequence[TrialRecord]) -> bool:
    """Return whether a trial is queued or was requeued: it comes before anything new."""
    return any(record.state == WAITING for record in records)


def _skips(records: Sequence[TrialRecord]) -> int:
    """Count suggestions in a row, just before the next trial, that were answered without training.

    The count is read from the study, so that it survives interruptions.
    """
    records = [record for record in records if record.repeat_of is None]
    upcoming = next((index for index, record in enumerate(records) if record.state == WAITING), len(records))
    count = 0
    while count < upcoming and records[upcoming - 1 - count].state in (INFEASIBLE, DUPLICATED):
        count += 1
    return count


def _starts(search: Search, records: Sequence[TrialRecord]) -> bool:
    """Return whether trials are still drawn at random.

    Samplers that learn from all trials would count baselines as their start, and the study would have no
    random search to measure them against.
    """
    known = (INFEASIBLE, DUPLICATED)
    drawn = sum(record.suggested_by == RANDOM and record.state not in known for record in records)
    return drawn < RANDOM_FIRST.get(search.sampler.name, 0)


def admit(
    search: Search, trial: optuna.Trial, worker: str, records: Sequence[TrialRecord]
) -> Assignment | None:
    """Sign a running trial and store its architecture; None if it was answered without training."""
    study, space = search.study, search.space
    if study.url is not None:
        trial.set_user_attr(HEARTBEAT, time.time())
    trial.set_user_attr(WORKER, worker)
    baseline, original = trial.user_attrs.get(BASELINE), trial.user_attrs.get(REPEAT_OF)
    if original is not None:
        architecture = records[original].build()
        if records[original].params:
            space.sample(trial)  # for readers of the storage: they are set already
    elif baseline not in space.baselines:  # none, or a design to beat, which is queued with its parameters
        architecture = space.sample(trial)
    else:
        architecture = space.baselines[baseline]
        if space.params_of(architecture) is not None:
            space.sample(trial)  # lies in the space: the sampler learns from it
    if SUGGESTED_BY not in trial.user_attrs:  # else it was requeued, and nothing was drawn now
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
    """End the trial if its architecture was taken before, with that result if there is one."""
    same = [
        record for record in records if record.hash == architecture.hash and record.number != trial.number
    ]
    original = next((record for record in same if record.state == DONE), None)
    if original is not None:
        trial.set_user_attr(DUPLICATE, original.number)
        trial.set_user_attr(METRICS, original.metrics)
        study.inner.tell(trial, original.values)
        return True
    other = next((record for record in same if record.counted or record.state == RUNNING), None)
    if other is not None:
        trial.set_user_attr(DUPLICATE, other.number)
        study.inner.tell(trial, state=TrialState.PRUNED)
    return other is not None


def _set_constraints(study: Study, trial: optuna.Trial, architecture: Architecture) -> None:
    """Store constraint values by name, for Optuna 5, and as the unnamed list of Optuna Dashboard 0.21."""
    amounts = study.space.constraint_values(architecture)
    for constraint, amount in zip(study.space.constraints, amounts, strict=True):
        if constraint.exact not in trial.constraints:  # else it was requeued: Optuna would warn
            trial.set_constraint(constraint.exact, amount)
    if amounts:
        set_system_attr(study.inner, trial, "constraints", list(amounts))
