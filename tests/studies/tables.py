"""Records of architectures with made-up runs, for what needs no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search_spaces.objectives import Objective
from studies.audit.report import Report, Row
from studies.study.trial_record import DONE, REPEAT_RUNNING, REPEATED, Run, TrialRecord
from studies.surrogates.observations import Observations
from surgery.architecture.metrics import METRICS

OBJECTIVES = (Objective(METRICS["val_loss"], None, "min"), Objective(METRICS["params"], None, "min"))
TWO_MEASURED = (*OBJECTIVES, Objective(METRICS["recall"], None, "max"))


def record(number: int, runs: Sequence[tuple[float, ...]] = (), **changes: object) -> TrialRecord:
    """An architecture whose runs gave these values."""
    values = tuple(float(np.mean(column)) for column in zip(*runs, strict=True)) if runs else None
    plain: dict[str, object] = {
        "number": number, "state": DONE, "values": values, "metrics": {}, "line": f"line {number}",
        "hash": str(number), "architecture": {}, "baseline": None, "feasible": True, "reason": "",
        "worker": "", "seconds": 1.0, "seeds": (number,),
        "runs": tuple(Run(number, tuple(run)) for run in runs),
    }  # fmt: skip
    return TrialRecord(**(plain | changes))  # type: ignore[arg-type]


def repeat(number: int, original: int, index: int, values: tuple[float, ...] | None) -> TrialRecord:
    """A repeat that ended with these values, or runs."""
    state = REPEATED if values is not None else REPEAT_RUNNING
    return record(number, state=state, values=values, repeat_of=original, repeat=index)


def study_of(results: Mapping[int, Sequence[float]], params: Sequence[float]) -> list[TrialRecord]:
    """Architectures 0, 1, ... with these losses, a run each, and these parameters."""
    return [record(number, [(loss, params[number]) for loss in losses]) for number, losses in results.items()]


def observation_table(
    numbers: Sequence[int],
    costs: Sequence[Sequence[float]],
    curves: Sequence[Sequence[float]],
    features: Sequence[Sequence[float]],
    rungs: int,
    exempt: Sequence[bool] = (),
    feasible: Sequence[bool] = (),
) -> Observations:
    """Observations from lists; curves may be shorter than `rungs`. By default none is exempt."""
    count = len(numbers)
    padded = np.full((count, rungs), np.nan)
    for row, curve in enumerate(curves):
        padded[row, : len(curve)] = curve
    return Observations(
        np.asarray(numbers, dtype=np.int64),
        np.asarray(costs, dtype=np.float64).reshape(count, len(costs[0]) if costs else 0),
        padded,
        np.asarray(features, dtype=np.float64).reshape(count, len(features[0]) if features else 0),
        np.asarray(exempt or [False] * count, dtype=np.bool_),
        np.asarray(feasible or [True] * count, dtype=np.bool_),
    )


def row_of(report: Report, predictor: str) -> Row:
    """The row of an audit's predictor."""
    return next(row for row in report.rows if row.name == predictor)
