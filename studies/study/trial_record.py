"""Records of trials, read from the storage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from search_spaces.objectives import Objective
from search_spaces.proxy import Proxy
from studies.stats.pareto import front_indices
from studies.storage.attributes import (
    ARCHITECTURE,
    BASELINE,
    CONFIRMS,
    DUPLICATE,
    ENVIRONMENT,
    HASH,
    LINE,
    MEASURED,
    METRICS,
    PASSED,
    REASON,
    REPEAT,
    REPEAT_OF,
    RUNGS,
    SECONDS,
    SEEDS,
    STEPS,
    STOPPED_AT,
    SUGGESTED_BY,
    TOKENS,
    WORKER,
)
from surgery.architecture import Architecture

RANDOM = "random"

# One word per state, the same on screens, in JSON, in exports and in the guides: `TrialRecord.word`.
State = Literal[
    "trained", "paused", "failed", "running", "waiting", "infeasible", "duplicate",
    "repeat", "repeat failed", "repeat running", "repeat waiting",
]  # fmt: skip
DONE: Literal["trained"] = "trained"  # its word is `measured` for a design of a pretrained model
PAUSED: Literal["paused"] = "paused"  # at a rung, by early stopping; it may resume from its checkpoint
FAILED: Literal["failed"] = "failed"
RUNNING: Literal["running"] = "running"
WAITING: Literal["waiting"] = "waiting"
INFEASIBLE: Literal["infeasible"] = "infeasible"
DUPLICATED: Literal["duplicate"] = "duplicate"
# A replicate is no architecture of its own, so counts and lists of the states above leave it out.
REPEATED: Literal["repeat"] = "repeat"
REPEAT_FAILED: Literal["repeat failed"] = "repeat failed"
REPEAT_RUNNING: Literal["repeat running"] = "repeat running"
REPEAT_WAITING: Literal["repeat waiting"] = "repeat waiting"


@dataclass(frozen=True)
class Run:
    """One training of an architecture: its trial, and the objectives it reached."""

    trial: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class TrialRecord:
    """One trial. `values` are in the order of the objectives; `metrics` has every metric by name.

    Where the architecture was trained again, both are means over its `runs`.
    """

    number: int
    state: State
    values: tuple[float, ...] | None
    metrics: dict[str, float]
    line: str
    hash: str
    architecture: dict[str, Any] | None
    baseline: str | None
    feasible: bool
    reason: str
    worker: str  # that trains it, or trained it last; empty while it waits
    seconds: float
    seeds: tuple[int, ...]
    rungs: tuple[float, ...] = ()  # held-out losses at the rungs reached
    passed: int = 0  # rungs that it was promoted past; they are not decided again
    steps: int | None = None  # of its whole run; None: as the proxy, or not known yet
    tokens: int | None = None  # trained on; None in a study of an older version: the whole proxy
    measured: dict[str, float] = field(default_factory=dict)  # of a run that has not ended
    environment: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    repeat_of: int | None = None
    repeat: int = 0  # 1-based index of a replicate
    confirms: int = 0  # 1-based index of a replicate that confirms a choice, 0 of any other trial
    runs: tuple[Run, ...] = ()  # of a trained architecture, its own first, without those that confirm it
    confirmations: tuple[Run, ...] = ()  # fresh runs that had no part in choosing the architecture
    failed_runs: int = 0
    suggested_by: str = ""
    ended: datetime | None = None
    done_word: str = DONE  # of the study's space

    @classmethod
    def read(cls, trial: FrozenTrial, done_word: str = DONE) -> TrialRecord:
        """Read the record of a stored trial; `done_word` is that of the study's space."""
        attrs, state = trial.user_attrs, _state(trial)
        values = tuple(trial.values) if trial.values is not None else None
        return cls(
            number=trial.number,
            state=state,
            values=values,
            metrics=attrs.get(METRICS, {}),
            line=attrs.get(LINE, ""),
            hash=attrs.get(HASH, ""),
            architecture=attrs.get(ARCHITECTURE),
            baseline=attrs.get(BASELINE),
            feasible=all(amount <= 0 for amount in trial.constraints.values()),
            reason=attrs.get(REASON, ""),
            worker=attrs.get(WORKER) or "",  # None once it was requeued
            seconds=attrs.get(SECONDS, 0.0),
            seeds=tuple(attrs.get(SEEDS, ())),
            rungs=tuple(attrs.get(RUNGS, ())),
            passed=attrs.get(PASSED) or 0,
            steps=attrs.get(STEPS),
            tokens=attrs.get(TOKENS),
            measured=attrs.get(MEASURED, {}),
            environment=attrs.get(ENVIRONMENT, {}),
            params=trial.params,
            repeat_of=attrs.get(REPEAT_OF),
            repeat=attrs.get(REPEAT, 0),
            confirms=attrs.get(CONFIRMS, 0),
            runs=(Run(trial.number, values),) if state == DONE and values is not None else (),
            suggested_by=attrs.get(SUGGESTED_BY, ""),
            ended=trial.datetime_complete,
            done_word=done_word,
        )

    @property
    def word(self) -> str:
        """The word for its state that people and programs read."""
        return self.done_word if self.state == DONE else self.state

    @property
    def counted(self) -> bool:
        """Return whether `--trials` counts this: a trained, paused or failed architecture."""
        return self.state in (DONE, FAILED, PAUSED)

    @property
    def repeated(self) -> bool:
        """Return whether this is a replicate that has ended, successfully or not."""
        return self.state in (REPEATED, REPEAT_FAILED)

    @property
    def name(self) -> str:
        """Name of the trial: `#12`; for a baseline `#1 dense`; for a replicate `#30 of #12`."""
        if self.repeat_of is not None:
            return f"#{self.number} of #{self.repeat_of}"
        return f"#{self.number} {self.baseline}" if self.baseline else f"#{self.number}"

    def as_first_run(self) -> TrialRecord:
        """Return the record with the values of its own run, where it has means over several."""
        own = self.runs[0].values if self.runs and self.values is not None else self.values
        return replace(self, values=own)

    def whole_steps(self, proxy: Proxy) -> int:
        """Return the number of optimizer steps of a run to the end."""
        return proxy.steps if self.steps is None else self.steps

    def at_rungs(self, fractions: Sequence[float]) -> str:
        """Return the held-out losses at the rungs as text, such as `5.5517 at 30%, 4.4121 at 100%`."""
        reached = zip(fractions, self.rungs, strict=False)
        return ", ".join(f"{loss:.4f} at {fraction:.0%}" for fraction, loss in reached)

    def build(self) -> Architecture:
        """Build the trial's architecture."""
        assert self.architecture is not None, "only sampled trials have one"
        return Architecture.from_dict(self.architecture)

    def to_dict(self) -> dict[str, Any]:
        """Return the record for `--json`; its keys are stable."""
        return {
            "number": self.number,
            "state": self.word,
            "architecture": self.line,
            "hash": self.hash,
            "baseline": self.baseline,
            "suggested_by": self.suggested_by,
            "feasible": self.feasible,
            "metrics": self.metrics,
            "params": self.params,
            "rungs": list(self.rungs),
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "seeds": list(self.seeds),
            "environment": self.environment,
            "reason": self.reason,
            "repeat_of": self.repeat_of,
            "runs": [{"trial": run.trial, "values": list(run.values)} for run in self.runs],
            "confirmations": [{"trial": run.trial, "values": list(run.values)} for run in self.confirmations],
            "failed_runs": self.failed_runs,
        }


def front_records(records: Iterable[TrialRecord], objectives: tuple[Objective, ...]) -> list[TrialRecord]:
    """Return the Pareto front, ordered by the first objective, the best first.

    A baseline that breaks a constraint is trained for comparison but is never on the front.
    """
    done = [record for record in records if record.state == DONE and record.values and record.feasible]
    points = [record.values for record in done if record.values is not None]
    front = [done[index] for index in front_indices(points, objectives)]
    sign = 1 if objectives[0].direction == "min" else -1
    return sorted(front, key=lambda record: sign * record.values[0] if record.values else 0.0)


def _state(trial: FrozenTrial) -> State:
    if REPEAT_OF in trial.user_attrs:
        return _REPEAT_STATES[trial.state]
    if trial.state == TrialState.PRUNED:
        return DUPLICATED if DUPLICATE in trial.user_attrs else INFEASIBLE
    if trial.state == TrialState.COMPLETE:
        return DUPLICATED if DUPLICATE in trial.user_attrs else DONE
    if trial.state == TrialState.RUNNING and trial.user_attrs.get(STOPPED_AT) is not None:
        return PAUSED
    return _STATES[trial.state]


_STATES: dict[TrialState, State] = {
    TrialState.FAIL: FAILED,
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: WAITING,
}
_REPEAT_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: REPEATED,
    TrialState.FAIL: REPEAT_FAILED,
    TrialState.PRUNED: REPEAT_FAILED,  # never set by nas; it is no result
    TrialState.RUNNING: REPEAT_RUNNING,
    TrialState.WAITING: REPEAT_WAITING,
}
