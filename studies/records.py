"""What a study knows about a trial, read back from the storage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search_spaces.objectives import Objective
from studies.front import front_indices
from surgery.architecture import Architecture

# Names of the trial's user attributes. They are what Optuna Dashboard shows, so they are words.
ARCHITECTURE, LINE, HASH = "architecture", "line", "hash"
BASELINE, WORKER, SEEDS, REASON, DUPLICATE = "baseline", "worker", "seeds", "reason", "duplicate_of"
METRICS, ENVIRONMENT, SECONDS = "metrics", "environment", "seconds"
SUGGESTED_BY = "suggested_by"  # baseline, random (also while a sampler starts up) or the sampler's name
RANDOM = "random"
TOKENS = "tokens"  # trained on, where that is not the whole proxy
DEATHS = "deaths"  # workers that were killed while they had the trial

DONE, FAILED, RUNNING, WAITING = "done", "failed", "running", "waiting"
INFEASIBLE, DUPLICATED = "infeasible", "duplicate"


@dataclass(frozen=True)
class TrialRecord:
    """One trial. `values` are in the order of the objectives; `metrics` has every metric by name."""

    number: int
    state: str
    values: tuple[float, ...] | None
    metrics: dict[str, float]
    line: str
    hash: str
    architecture: dict[str, Any] | None
    baseline: str | None
    feasible: bool
    reason: str
    worker: str
    seconds: float
    seeds: tuple[int, ...]
    environment: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    suggested_by: str = ""
    tokens: int | None = None
    ended: datetime | None = None

    @classmethod
    def read(cls, trial: FrozenTrial) -> TrialRecord:
        attrs = trial.user_attrs
        return cls(
            number=trial.number,
            state=_state(trial),
            values=tuple(trial.values) if trial.values is not None else None,
            metrics=attrs.get(METRICS, {}),
            line=attrs.get(LINE, ""),
            hash=attrs.get(HASH, ""),
            architecture=attrs.get(ARCHITECTURE),
            baseline=attrs.get(BASELINE),
            feasible=all(amount <= 0 for amount in trial.constraints.values()),
            reason=attrs.get(REASON, ""),
            worker=attrs.get(WORKER) or "",  # None once it was put back
            seconds=attrs.get(SECONDS, 0.0),
            seeds=tuple(attrs.get(SEEDS, ())),
            environment=attrs.get(ENVIRONMENT, {}),
            params=trial.params,
            suggested_by=attrs.get(SUGGESTED_BY, ""),
            tokens=attrs.get(TOKENS),
            ended=trial.datetime_complete,
        )

    @property
    def trained(self) -> bool:
        """Used up one training, successfully or not."""
        return self.state in (DONE, FAILED)

    @property
    def name(self) -> str:
        """`#12` or, for the seeds' own designs, `#1 dense`."""
        return f"#{self.number} {self.baseline}" if self.baseline else f"#{self.number}"

    def build(self) -> Architecture:
        assert self.architecture is not None, "only sampled trials have one"
        return Architecture.from_dict(self.architecture)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`; stable."""
        return {
            "number": self.number,
            "state": self.state,
            "architecture": self.line,
            "hash": self.hash,
            "baseline": self.baseline,
            "suggested_by": self.suggested_by,
            "feasible": self.feasible,
            "metrics": self.metrics,
            "params": self.params,
            "seconds": self.seconds,
            "seeds": list(self.seeds),
            "environment": self.environment,
            "reason": self.reason,
        }


def front_records(records: Iterable[TrialRecord], objectives: tuple[Objective, ...]) -> list[TrialRecord]:
    """The Pareto front, ordered by the first objective from its best.

    A baseline that breaks a constraint is trained for comparison but has no place on it.
    """
    done = [record for record in records if record.state == DONE and record.values and record.feasible]
    points = [record.values for record in done if record.values is not None]
    front = [done[index] for index in front_indices(points, objectives)]
    sign = 1 if objectives[0].direction == "min" else -1
    return sorted(front, key=lambda record: sign * record.values[0] if record.values else 0.0)


def _state(trial: FrozenTrial) -> str:
    if trial.state == TrialState.PRUNED:
        return DUPLICATED if DUPLICATE in trial.user_attrs else INFEASIBLE
    if trial.state == TrialState.COMPLETE:
        return DUPLICATED if DUPLICATE in trial.user_attrs else DONE
    return {TrialState.FAIL: FAILED, TrialState.RUNNING: RUNNING, TrialState.WAITING: WAITING}[trial.state]
