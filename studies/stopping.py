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

import optuna
from optuna.trial import TrialState

from studies.records import (
    DONE,
    MEASURED,
    PASSED,
    RUNGS,
    RUNNING,
    STOPPED,
    STOPPED_AT,
    TOKENS,
    WAITING,
    WORKER,
    TrialRecord,
)
from studies.rungs.evidence import Evidence
from studies.rungs.forecast import forecast
from studies.rungs.strategies import STRATEGIES, Never, Strategy

if TYPE_CHECKING:
    from studies.study import Study

LOSSES = ("val_loss", "val_bpb")  # what a rung tells; one is a fixed multiple of the other
CHECKPOINT = "checkpoint.pt"
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
    with study.exclusive():
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
    """Keeps with the trial how far it got."""
    trial.set_user_attr(RUNGS, list(losses))
    trial.set_user_attr(TOKENS, tokens)
    trial.set_user_attr(MEASURED, dict(measured))


def stop(study: Study, trial: optuna.Trial, worker: str) -> bool:
    """Frees the trial's worker; its checkpoint is written. False when another worker has the trial."""
    with study.exclusive():
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
    trial = study.inner.get_trials(deepcopy=False)[number]
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
            values = {**study.costs(record), **record.measured, "val_loss": loss}
            if "val_bpb" in values:
                values["val_bpb"] *= growth
            found[number] = [values[item.name] for item in study.space.objectives]
    return found


def gather(study: Study, records: Sequence[TrialRecord]) -> Evidence:
    """Every trial that has a loss at a rung, in order."""
    rungs = len(study.space.proxy.rungs)
    rows = [
        record
        for record in records
        if (record.rungs and record.state in (RUNNING, STOPPED, WAITING)) or record.state == DONE
    ]
    return Evidence.of(
        [record.number for record in rows],
        [_costs(study, record) for record in rows],
        [_curve(record, rungs) for record in rows],
        [study.features(record) for record in rows],
        rungs,
        exempt=[record.baseline is not None for record in rows],
        feasible=[record.feasible for record in rows],
    )


def is_held(study: Study, trial: optuna.Trial, worker: str) -> bool:
    """Whether the worker still has the trial."""
    now = study.inner._storage.get_trial(trial._trial_id)
    return now.state == TrialState.RUNNING and now.user_attrs.get(WORKER) == worker


def _places(
    study: Study, records: Sequence[TrialRecord], numbers: Sequence[int]
) -> tuple[Evidence, list[int]]:
    """What is known, and the rows of these trials in it."""
    evidence = gather(study, records)
    places = {number: row for row, number in enumerate(evidence.numbers.tolist())}
    return evidence, [places[number] for number in numbers]


def _strategy(study: Study) -> Strategy:
    return STRATEGIES[study.settings.stopping]


def _compares(study: Study) -> bool:
    """Whether a rung tells anything of the objectives."""
    return any(item.name in LOSSES for item in study.space.objectives)


def _costs(study: Study, record: TrialRecord) -> list[float]:
    """Every objective but the loss, lower is better; what is not known yet is no advantage to anyone."""
    values = {**study.costs(record), **record.measured, **record.metrics}
    return [
        values.get(item.name, 0.0) * (1 if item.direction == "min" else -1)
        for item in study.space.objectives
        if item.name not in LOSSES
    ]


def _curve(record: TrialRecord, rungs: int) -> list[float]:
    if record.state != DONE:
        return list(record.rungs)
    before = list(record.rungs[: rungs - 1])  # none in a study of an older version
    return [*before, *[float("nan")] * (rungs - 1 - len(before)), record.metrics["val_loss"]]


def _stopped_with_checkpoint(study: Study, records: Sequence[TrialRecord]) -> list[int]:
    folder = str(study.folder)  # text: there may be thousands of them
    return [
        record.number
        for record in records
        if record.state == STOPPED and os.path.isfile(f"{folder}/trials/{record.number:05d}/{CHECKPOINT}")
    ]


def checkpoint_of(study: Study, number: int) -> Path:
    return study.folder_of(number) / CHECKPOINT


def _drop_checkpoints(study: Study) -> None:
    """Keeps those of the most promising stopped trials: the rest is stopped for good."""
    records = study.records()
    numbers = _stopped_with_checkpoint(study, records)
    if len(numbers) > MOST_CHECKPOINTS:
        evidence, rows = _places(study, records, numbers)
        worth = _strategy(study).worth(evidence, rows)
        for place in worth.argsort(kind="stable")[: len(numbers) - MOST_CHECKPOINTS]:
            with suppress(FileNotFoundError):
                checkpoint_of(study, numbers[int(place)]).unlink()
