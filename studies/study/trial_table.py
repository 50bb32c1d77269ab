"""All trials of a study as a table: a row for each run, its replicates and failures included."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from search_spaces import SearchSpace
from studies.study.trial_record import TrialRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def trial_rows(
    trials: Sequence[FrozenTrial], space: SearchSpace, front: Collection[int], picked: Collection[int]
) -> list[dict[str, Any]]:
    """Return a row for each trial, in order; all rows have the same keys, and None where nothing is known.

    Unlike records of a study, an architecture that was trained again has its own values and not their means.

    Args:
        trials: of a study.
        space: the study's; `val_loss@30%` is the held-out loss at its proxy's rung at 30 %.
        front: numbers of the trials on the front.
        picked: numbers of those that were picked.
    """
    records = [TrialRecord.read(trial, space.done_word) for trial in trials]
    rows = []
    for trial, record in zip(trials, records, strict=True):
        row: dict[str, Any] = {
            "trial": record.number,
            "status": record.word,
            "baseline": record.baseline,
            "repeat_of": record.repeat_of,
            "suggested_by": record.suggested_by or None,
            "on_front": record.number in front,
            "picked": record.number in picked,
            "feasible": record.feasible,
            "architecture": record.line or None,
            "layout": (record.architecture or {}).get("layout"),
            "hash": record.hash or None,
            "reason": record.reason or None,
            "seeds": " ".join(map(str, record.seeds)) or None,
            "tokens": record.tokens,
            "seconds": record.seconds,
            "worker": record.worker or None,
            "device": record.environment.get("device"),
            "torch": record.environment.get("torch"),
            "started": trial.datetime_start,
            "ended": trial.datetime_complete,
        }
        row |= record.measured | record.metrics
        row |= {
            f"val_loss@{fraction:.0%}": loss
            for fraction, loss in zip(space.proxy.rungs, record.rungs, strict=False)
        }
        row |= {f"params.{name}": value for name, value in record.params.items()}
        rows.append(row)
    names = _in_order(rows)
    return [{name: row.get(name) for name in names} for row in rows]


def _in_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of all columns: what a trial is, what was measured of it, what was searched."""
    names = dict.fromkeys(name for row in rows for name in row)
    first = list(rows[0])[: list(rows[0]).index("ended") + 1] if rows else []
    searched = [name for name in names if name.startswith("params.")]
    rungs = [name for name in names if name.startswith("val_loss@") and name.endswith("%")]
    rest = [name for name in names if name not in {*first, *searched, *rungs}]
    return [*first, *rest, *rungs, *searched]
