"""Early stopping in a study: what is known is gathered, a strategy is asked, trials stop and are promoted.

A stopped trial stays a running one for Optuna, which can't reopen what is finished. It has no worker, its
state is in its checkpoint, and it waits for its chance of a place on the front to rise. Then it goes on as
the same trial.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.trial import TrialState

from studies.search.observe import LOSSES, gather
from studies.search.stopping_rules import STRATEGIES, Never, Strategy
from studies.storage.attributes import DEATHS, MEASURED, PASSED, RUNGS, STOPPED_AT, TOKENS, WORKER
from studies.study.names import CHECKPOINT
from studies.study.trial_record import STOPPED, TrialRecord
from studies.surrogates.learning_curves import forecast
from studies.surrogates.observations import Evidence
from surgery.architecture.costs import AHEAD

if TYPE_CHECKING:
    from studies.study import Study

MOST_CHECKPOINTS = 32  # of stopped trials; the least promising ones beyond are stopped for good


def reach(
    study: Study,
    trial: optuna.Trial,
    worker: str,
    losses: Sequence[float],
    tokens: int,
    measured: Mapping[str, float],
) -> bool:
    """Notes where a running trial is; whether it goes on.

    Args:
        losses: held-out losses in nats/token at the rungs reached so far.
        tokens: trained on so far.
        measured: everything else that was measured so far, by metric.
    """
    with study.exclusive(), study.at_once():
        if not is_held(study, trial, worker):
            return True  # given to another worker meanwhile: `finish` says so
        note(trial, losses, tokens, measured)
        record = study.record(trial.number)
        decided = len(losses) <= record.passed or len(losses) == len(study.space.proxy.rungs)
        strategy = _strategy(study)
        exempt = record.baseline is not None or record.repeat_of is not None
        if decided or exempt or isinstance(strategy, Never) or not _compares(study):
            return True
        records = study.records()
        evidence, rows = _places(study, records, [trial.number, *_stopped_with_checkpoint(study, records)])
        return strategy.goes_on(evidence, rows[0], rows[1:])


def note(trial: optuna.Trial, losses: Sequence[float], tokens: int, measured: Mapping[str, float]) -> None:
    """Store with the trial how far it got. A rung that it never reached before forgives the deaths of its
    workers: on machines that are pre-empted every trial outlives many."""
    stored = trial.user_attrs
    if stored.get(DEATHS) and len(losses) > len(stored.get(RUNGS, ())):
        trial.set_user_attr(DEATHS, 0)
    trial.set_user_attr(RUNGS, list(losses))
    trial.set_user_attr(TOKENS, tokens)
    trial.set_user_attr(MEASURED, dict(measured))


def stop(study: Study, trial: optuna.Trial, worker: str) -> bool:
    """Frees the trial's worker; its checkpoint is written. False when another worker has the trial."""
    with study.exclusive(), study.at_once():
        if not is_held(study, trial, worker):
            return False
        trial.set_user_attr(STOPPED_AT, len(study.record(trial.number).rungs))
        trial.set_user_attr(WORKER, None)
        _drop_checkpoints(study)
    return True


def promotable(study: Study, records: Sequence[TrialRecord], *, ending: bool) -> int | None:
    """The stopped trial that goes on next, when one is worth it. `ending`: no new trials are started."""
    numbers = _stopped_with_checkpoint(study, records)
    if not numbers:
        return None
    evidence, rows = _places(study, records, numbers)
    row = _strategy(study).next(evidence, rows, ending=ending)
    return None if row is None else int(evidence.numbers[row])


def promote(study: Study, number: int) -> None:
    """Lets a stopped trial wait for a worker, to go on past the rung that it stopped at."""
    trial = study.trial(number)
    storage = study.inner._storage
    storage.set_trial_user_attr(trial._trial_id, PASSED, trial.user_attrs[STOPPED_AT])
    storage.set_trial_user_attr(trial._trial_id, STOPPED_AT, None)
    storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def expected_values(study: Study, records: Sequence[TrialRecord]) -> dict[int, list[float]]:
    """The objectives that stopped trials would end with, by number: what a sampler learns from them."""
    if not any(record.state == STOPPED for record in records) or not _compares(study):
        return {}
    evidence = gather(study, records)
    told = forecast(evidence).mean
    found = {}
    for row, number in enumerate(evidence.numbers.tolist()):
        record = records[number]
        if record.state == STOPPED:
            loss = record.rungs[-1] if told[row] != told[row] else float(told[row])
            growth = loss / record.rungs[-1]
            losses = dict.fromkeys(("val_loss", *AHEAD), loss)
            values = {**study.costs(record), **record.measured, **losses}
            if "val_bpb" in values:
                values["val_bpb"] *= growth
            found[number] = [values[item.name] for item in study.space.objectives]
    return found


def is_held(study: Study, trial: optuna.Trial, worker: str) -> bool:
    """Whether the worker still has the trial."""
    now = study.inner._storage.get_trial(trial._trial_id)
    return now.state == TrialState.RUNNING and now.user_attrs.get(WORKER) == worker


def _places(
    study: Study, records: Sequence[TrialRecord], numbers: Sequence[int]
) -> tuple[Evidence, list[int]]:
    """What is known, and the rows of these trials in it."""
    evidence = gather(study, records)
    return evidence, np.searchsorted(evidence.numbers, numbers).tolist()


def _strategy(study: Study) -> Strategy:
    return STRATEGIES[study.settings.stopping]


def _compares(study: Study) -> bool:
    """Whether a rung tells anything of the objectives."""
    return any(item.name in LOSSES for item in study.space.objectives)


def _stopped_with_checkpoint(study: Study, records: Sequence[TrialRecord]) -> list[int]:
    """Who can go on. A checkpoint that was dropped never comes back, so that it is looked for no more."""
    folder = str(study.folder)  # text: there may be thousands of them
    stopped = [
        record.number for record in records if record.state == STOPPED and record.number not in study.for_good
    ]
    there = [number for number in stopped if os.path.isfile(f"{folder}/trials/{number:05d}/{CHECKPOINT}")]
    study.for_good.update(set(stopped).difference(there))
    return there


def checkpoint_of(study: Study, number: int) -> Path:
    """Where a trial's checkpoint is, if it has one."""
    return study.folder_of(number) / CHECKPOINT


def drop_checkpoint(study: Study, number: int) -> None:
    """Delete the checkpoint of a trial that has ended, also a half-written one."""
    path = checkpoint_of(study, number)
    for leftover in (path, path.with_suffix(".tmp")):
        leftover.unlink(missing_ok=True)


def drop_leftovers(study: Study) -> None:
    """Delete the checkpoints that dead workers left in trials that have ended, and half-written ones."""
    trials = study.inner.get_trials(deepcopy=False)
    for path in (study.folder / "trials").glob("*/checkpoint.*"):
        number = int(path.parent.name) if path.parent.name.isdecimal() else len(trials)
        if number >= len(trials):
            continue  # not a trial's
        if trials[number].state.is_finished():
            drop_checkpoint(study, number)
        elif path.suffix == ".tmp" and not trials[number].user_attrs.get(WORKER):
            path.unlink(missing_ok=True)


def _drop_checkpoints(study: Study) -> None:
    """Keeps those of the most promising stopped trials: the rest is stopped for good."""
    records = study.records()
    numbers = _stopped_with_checkpoint(study, records)
    if len(numbers) > MOST_CHECKPOINTS:
        evidence, rows = _places(study, records, numbers)
        hope = _strategy(study).hope(evidence, rows)
        for place in hope.argsort(kind="stable")[: len(numbers) - MOST_CHECKPOINTS]:
            with suppress(FileNotFoundError):
                checkpoint_of(study, numbers[int(place)]).unlink()
