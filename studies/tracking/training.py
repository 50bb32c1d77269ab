"""A training or a healing in trackers, by the callbacks that they have."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from studies.tracking.choice import Choice
from studies.tracking.guarded import Guard
from studies.tracking.tracker import Run, Tracker, Value

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from studies.healing.healer import Healer
    from studies.healing.report import Healing
    from studies.training.loop import Progress, TrainResult
    from studies.training.request import TrainRequest

PROJECT = "nas"  # name of what runs of `nas train` and `nas apply` belong to
DONE, FAILED = "trained", "failed"
_KEYS = {"the model as it was": "original", "trained likewise, without a surgery": "control"}


def stores(output: Path) -> Path:
    """Return the folder of the local stores of a training, beside the model's."""
    return output.absolute().with_name(f"{output.name}.tracking")


class TrainingTracker:
    """The runs of one training, in several trackers.

    A point is passed on when the next one comes: only then its held-out loss is known.
    """

    def __init__(self, choices: Sequence[Choice], folder: Path, warn: Callable[[str], None]) -> None:
        """Open the trackers.

        Args:
            choices: the trackers.
            folder: of their local stores.
            warn: called if a tracker fails, which ends nothing but its tracking.
        """
        self._mark = secrets.token_hex(4)
        self._trackers: list[tuple[Guard, Tracker]] = []
        for choice in choices:
            guard = Guard(choice.name, warn)
            with guard():
                self._trackers.append((guard, choice.open(folder, PROJECT, self._mark)))
        self._runs: dict[str, list[tuple[Guard, Run]]] = {}
        self._pending: dict[str, tuple[int, dict[str, float]]] = {}
        self._held_out: dict[str, float | None] = {}

    def start(self, name: str, settings: Mapping[str, Value]) -> None:
        """Open a run in every tracker."""
        runs = self._runs[name] = []
        for guard, tracker in self._trackers:
            if guard.working:
                with guard():
                    runs.append((guard, tracker.start(name, settings)))

    def step(self, name: str, now: Progress) -> None:
        """Track the progress of a run that is open."""
        if now.val_loss is not None and now.val_loss != self._held_out.get(name):
            self._held_out[name] = now.val_loss
            if name in self._pending:
                self._pending[name][1]["val_loss"] = now.val_loss
        self._flush(name)
        values = {"loss": now.loss, "tokens": now.tokens, "tokens_per_s": now.tokens_per_s}
        self._pending[name] = (now.step, values if now.kl is None else {**values, "kl": now.kl})

    def finish(self, name: str, state: str, results: Mapping[str, float]) -> None:
        """Close a run, if it is open."""
        if name in self._pending and "val_loss" in results:
            self._pending[name][1]["val_loss"] = results["val_loss"]
        self._flush(name)
        self._each(name, lambda run: run.finish(state, results))
        self._runs.pop(name, None)

    def close(self) -> None:
        """Close the runs that did not end, as failed ones, and the trackers."""
        for name in list(self._runs):
            self.finish(name, FAILED, {})
        for guard, tracker in self._trackers:
            if guard.working:
                with guard():
                    tracker.close()

    def is_open(self, name: str) -> bool:
        """Return whether a run was started and not finished."""
        return name in self._runs

    def _flush(self, name: str) -> None:
        if name in self._pending:
            step, values = self._pending.pop(name)
            self._each(name, lambda run: run.log(step, values))

    def _each(self, name: str, use: Callable[[Run], None]) -> None:
        for guard, run in self._runs.get(name, ()):
            if guard.working:
                with guard():
                    use(run)


@contextmanager
def tracked(
    choices: Sequence[Choice], folder: Path, warn: Callable[[str], None]
) -> Iterator[TrainingTracker]:
    """Open trackers for a block; runs that have not ended by its end have failed."""
    tracker = TrainingTracker(choices, folder, warn)
    try:
        yield tracker
    finally:
        tracker.close()


def track_training(
    tracker: TrainingTracker,
    request: TrainRequest,
    train: Callable[[Callable[[Progress], None]], TrainResult],
    on_step: Callable[[Progress], None],
) -> TrainResult:
    """Run a training from scratch and track it as a run of its folder's name.

    Args:
        tracker: takes the run.
        request: the training.
        train: runs it with a callback for its progress.
        on_step: called as well.
    """
    name = request.output.absolute().name
    tracker.start(name, _settings(request, architecture=request.architecture.line))

    def step(now: Progress) -> None:
        on_step(now)
        tracker.step(name, now)

    result = train(step)
    results = {key: value for key, value in asdict(result).items() if isinstance(value, int | float)}
    tracker.finish(name, DONE, results)
    return result


@contextmanager
def track_healing(healer: Healer, choices: Sequence[Choice], warn: Callable[[str], None]) -> Iterator[None]:
    """Track a healing while the block runs it.

    Every stage is a run, `NAME-healed`, by wrapping the callbacks of the healer's watch; at the end the run
    `NAME` gets all held-out losses.

    Args:
        healer: whose `healing` is there at the end of the block.
        choices: the trackers.
        warn: called if a tracker fails, which ends nothing but its tracking.
    """
    if not choices or healer.out is None:
        yield
        return
    watch, name = healer.watch, healer.out.name
    settings = _settings(healer.settings, architecture=healer.planned.after.line)
    on_step, on_loss = watch.on_step, watch.on_loss
    with tracked(choices, stores(healer.out), warn) as tracker:

        def step(stage: str, now: Progress) -> None:
            on_step(stage, now)
            run = f"{name}-{stage}"
            if not tracker.is_open(run):
                tracker.start(run, {**settings, "stage": stage, "steps": now.steps})
            tracker.step(run, now)

        def loss(what: str, value: float, bpb: float) -> None:
            on_loss(what, value, bpb)
            tracker.finish(f"{name}-{what}", DONE, {"val_loss": value, "val_bpb": bpb})

        watch.on_step, watch.on_loss = step, loss
        yield
        if healer.healing is not None:
            tracker.start(name, settings)
            tracker.finish(name, DONE, _losses(healer.healing))


def _losses(healing: Healing) -> dict[str, float]:
    """Return every held-out loss, such as `healed/val_loss`."""
    results: dict[str, float] = {}
    for what, loss, bpb, kl in healing.rows():
        key = _KEYS.get(what, what)
        results |= {f"{key}/val_loss": loss, f"{key}/val_bpb": bpb}
        if kl is not None:
            results[f"{key}/kl"] = kl
    return results


def _settings(request: DataclassInstance, architecture: str) -> dict[str, Value]:
    """Return the plain values of a request."""
    values = {item.name: getattr(request, item.name) for item in fields(request)}
    plain = {name: value for name, value in values.items() if isinstance(value, str | int | float)}
    return {**plain, "architecture": architecture}
