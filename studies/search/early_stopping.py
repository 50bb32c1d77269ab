"""Early stopping at rungs: which trials pause, and which paused ones resume.

A paused trial stays a running one for Optuna, which can't reopen what is finished. It has no worker, its
state is in its checkpoint, and it waits for its score to become positive. Then it resumes as
the same trial.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import optuna
from optuna.trial import TrialState

from studies.search.search import Search
from studies.search.stopping_rules import Never
from studies.storage.attributes import DEATHS, MEASURED, PASSED, RUNGS, STOPPED_AT, TOKENS, WORKER
from studies.storage.optuna_access import refreshed, set_attr, set_state
from studies.study import Study
from studies.study.checkpoints import checkpoint_of
from studies.study.names import CHECKPOINT
from studies.study.trial_record import PAUSED, TrialRecord
from studies.surrogates.learning_curves import extrapolate
from studies.surrogates.observations import Observations
from surgery.architecture.metrics import AHEAD

MOST_CHECKPOINTS = 32  # of paused trials; the least promising ones beyond never resume


def reach(
    search: Search,
    trial: optuna.Trial,
    worker: str,
    losses: Sequence[float],
    tokens: int,
    measured: Mapping[str, float],
) -> bool:
    """Store the progress of a running trial, and return whether it continues past this rung.

    Args:
        losses: held-out losses in nats/token at the rungs reached so far.
        tokens: trained on so far.
        measured: everything else that was measured so far, by metric.
    """
    study = search.study
    with study.exclusive(), study.batched_writes():
        if not is_held(study, trial, worker):
            return True  # reassigned meanwhile: `finish` reports it
        note(trial, losses, tokens, measured)
        record = study.record(trial.number)
        decided = len(losses) <= record.passed or len(losses) == len(search.space.proxy.rungs)
        exempt = record.baseline is not None or record.repeat_of is not None
        if decided or exempt or isinstance(search.rule, Never) or not search.compares:
            return True
        records = study.records()
        outlook = search.look(records, apart=trial.number)
        if outlook is not None:
            observations, rows = _rows(search, records, [trial.number])
            return search.rule.pays(outlook, _remaining(search), observations, rows) is not None
        observations, rows = _rows(search, records, [trial.number, *_resumable(search, records)])
        return search.rule.continues(observations, rows[0], rows[1:])


def note(trial: optuna.Trial, losses: Sequence[float], tokens: int, measured: Mapping[str, float]) -> None:
    """Store the progress of a trial.

    Reaching a new rung resets the count of its workers' deaths, as trials on pre-empted machines lose many
    workers.
    """
    stored = trial.user_attrs
    if stored.get(DEATHS) and len(losses) > len(stored.get(RUNGS, ())):
        trial.set_user_attr(DEATHS, 0)
    trial.set_user_attr(RUNGS, list(losses))
    trial.set_user_attr(TOKENS, tokens)
    trial.set_user_attr(MEASURED, dict(measured))


def pause(search: Search, trial: optuna.Trial, worker: str) -> bool:
    """Free the trial's worker; its checkpoint is written. False when another worker has the trial."""
    study = search.study
    with study.exclusive(), study.batched_writes():
        if not is_held(study, trial, worker):
            return False
        trial.set_user_attr(STOPPED_AT, len(study.record(trial.number).rungs))
        trial.set_user_attr(WORKER, None)
        _drop_checkpoints(search)
    return True


def promotable(search: Search, records: Sequence[TrialRecord], *, ending: bool) -> int | None:
    """Return the paused trial to resume next, or None. `ending`: no new trials are started."""
    numbers = _resumable(search, records)
    if not numbers:
        return None
    observations, rows = _rows(search, records, numbers)
    outlook = None if ending else search.look(records)
    if outlook is not None:
        row = search.rule.pays(outlook, _remaining(search), observations, rows)
    else:
        row = search.rule.next(observations, rows, ending=ending)
    return None if row is None else int(observations.numbers[row])


def promote(study: Study, number: int) -> None:
    """Set a paused trial waiting for a worker, to resume past the rung that it paused at."""
    trial = study.trial(number)
    set_attr(study.inner, trial, PASSED, trial.user_attrs[STOPPED_AT])
    set_attr(study.inner, trial, STOPPED_AT, None)
    set_state(study.inner, trial, TrialState.WAITING)


def expected_values(search: Search, records: Sequence[TrialRecord]) -> dict[int, list[float]]:
    """Return the objectives that paused trials would end with, by number: samplers learn from them."""
    if not any(record.state == PAUSED for record in records) or not search.compares:
        return {}
    observations = search.observe(records)
    predicted = extrapolate(observations).mean
    expected = {}
    for row, number in enumerate(observations.numbers.tolist()):
        record = records[number]
        if record.state == PAUSED:
            loss = record.rungs[-1] if math.isnan(predicted[row]) else float(predicted[row])
            growth = loss / record.rungs[-1]
            losses = dict.fromkeys(("val_loss", *AHEAD), loss)
            values = {**search.facts.costs(record), **record.measured, **losses}
            if "val_bpb" in values:
                values["val_bpb"] *= growth
            expected[number] = [values[item.name] for item in search.space.objectives]
    return expected


def is_held(study: Study, trial: optuna.Trial, worker: str) -> bool:
    """Return whether the worker still has the trial."""
    now = refreshed(study.inner, trial)
    return now.state == TrialState.RUNNING and now.user_attrs.get(WORKER) == worker


def _remaining(search: Search) -> list[float]:
    """Return the share of a training that is left after each number of rungs."""
    return [1.0, *(1 - share for share in search.space.proxy.rungs)]


def _rows(
    search: Search, records: Sequence[TrialRecord], numbers: Sequence[int]
) -> tuple[Observations, list[int]]:
    """Return the observations, and the rows of these trials in them."""
    observations = search.observe(records)
    return observations, np.searchsorted(observations.numbers, numbers).tolist()


def _resumable(search: Search, records: Sequence[TrialRecord]) -> list[int]:
    """Return paused trials that still have a checkpoint. Deleted checkpoints are remembered, and not looked
    up again."""
    folder = str(search.study.folder)  # text: there may be thousands of them
    paused = [
        record.number
        for record in records
        if record.state == PAUSED and record.number not in search.checkpoints_gone
    ]
    there = [number for number in paused if os.path.isfile(f"{folder}/trials/{number:05d}/{CHECKPOINT}")]
    search.checkpoints_gone.update(set(paused).difference(there))
    return there


def _drop_checkpoints(search: Search) -> None:
    """Delete the checkpoints of the least promising paused trials, beyond MOST_CHECKPOINTS."""
    records = search.study.records()
    numbers = _resumable(search, records)
    if len(numbers) > MOST_CHECKPOINTS:
        observations, rows = _rows(search, records, numbers)
        chances = search.rule.chance_on_front(observations, rows)
        for index in chances.argsort(kind="stable")[: len(numbers) - MOST_CHECKPOINTS]:
            with suppress(FileNotFoundError):
                checkpoint_of(search.study, numbers[int(index)]).unlink()
