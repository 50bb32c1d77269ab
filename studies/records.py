"""What a study knows about a trial, read back from the storage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search_spaces.objectives import Objective
from studies.front import front_indices
from surgery.architecture import Architecture

# Names of the trial's user attributes. They are what Optuna Dashboard shows, so they are words.
ARCHITECTURE, LINE, HASH = "architecture", "line", "hash"
BASELINE, WORKER, SEEDS, REASON, DUPLICATE = "baseline", "worker", "seeds", "reason", "duplicate_of"
METRICS, ENVIRONMENT, SECONDS = "metrics", "environment", "seconds"
DEATHS = "deaths"  # workers that were killed while they had the trial
RUNGS = "rungs"  # held-out losses at the rungs reached
TOKENS, MEASURED = "tokens", "measured"  # trained on, and the other metrics, so far
STOPPED_AT, PASSED = "stopped_at_rung", "promoted_past_rung"  # rungs counted from 1

DONE, FAILED, RUNNING, WAITING, STOPPED = "done", "failed", "running", "waiting", "stopped"
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
    rungs: tuple[float, ...] = ()  # held-out losses at the rungs reached
    passed: int = 0  # rungs behind which it was promoted, whatever is known there now
    tokens: int = 0  # trained on
    measured: dict[str, float] = field(default_factory=dict)  # of a run that has not ended
    environment: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)

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
            rungs=tuple(attrs.get(RUNGS, ())),
            passed=attrs.get(PASSED) or 0,
            tokens=attrs.get(TOKENS, 0),
            measured=attrs.get(MEASURED, {}),
            environment=attrs.get(ENVIRONMENT, {}),
            params=trial.params,
        )

    @property
    def trained(self) -> bool:
        """Used up one training: to the end, to a rung where it was stopped, or in vain."""
        return self.state in (DONE, FAILED, STOPPED)

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
            "feasible": self.feasible,
            "metrics": self.metrics,
            "params": self.params,
            "rungs": list(self.rungs),
            "tokens": self.tokens,
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
    if trial.state == TrialState.RUNNING and trial.user_attrs.get(STOPPED_AT) is not None:
        return STOPPED
    return {TrialState.FAIL: FAILED, TrialState.RUNNING: RUNNING, TrialState.WAITING: WAITING}[trial.state]
