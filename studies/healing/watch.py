"""Callbacks that follow a healing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from studies.healing.teacher import OnBatch
from studies.training.loop import Progress


class Loss(Protocol):
    """A held-out loss: an `Evaluation`, or the result of a training."""

    @property
    def val_loss(self) -> float:
        """Nats/token."""
        ...

    @property
    def val_bpb(self) -> float:
        """Bits/byte."""
        ...


@dataclass
class Watch:
    """Callbacks that follow a healing; by default nothing is shown.

    Attributes:
        on_step: progress of a training (stage, progress); the stages are `aligning`, `healing` and `control`.
        on_stage: progress of a measurement (stage, done, total).
        on_loss: a held-out loss (model, nats/token, bits/byte).
        on_note: a remark, such as on what is resumed or refused.
    """

    on_step: Callable[[str, Progress], None] = lambda stage, progress: None
    on_stage: Callable[[str, int, int], None] = lambda stage, done, total: None
    on_loss: Callable[[str, float, float], None] = lambda what, loss, bpb: None
    on_note: Callable[[str], None] = lambda text: None

    def batches(self, what: str) -> OnBatch:
        """Return the callback of a measurement."""
        return lambda done, total: self.on_stage(f"loss of the {what} model, batch", done, total)

    def report(self, what: str, result: Loss) -> None:
        """Report a held-out loss."""
        self.on_loss(what, result.val_loss, result.val_bpb)
