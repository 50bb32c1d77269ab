"""Losses of a healing, as JSON and as a section of the model card."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from studies.healing.settings import HealSettings
from studies.training.loop import TrainResult
from studies.training.validation import Evaluation
from surgery.hf.card import table

LOSS_NAMES = {
    "ce": "cross-entropy with the text",
    "kl": "KL divergence from the original model",
    "both": "the mean of the cross-entropy with the text and the KL divergence from the original model",
}


@dataclass(frozen=True)
class Healing:
    """Held-out losses of a surgery and of the training after it.

    Attributes:
        text: the corpus.
        original: the model that was rewritten.
        before: the rewritten model, before any training.
        after: the training, with the losses of its best weights as they are written; None without one.
        kept: the weights that were kept: `healed`, or `rewritten` where training has made nothing better.
        step: the step that the weights are from.
        settings: of the training; None without one.
    """

    text: str
    original: Evaluation
    before: Evaluation
    after: TrainResult | None = None
    kept: str = "rewritten"
    step: int = 0
    settings: HealSettings | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def card(self) -> str:
        """Return the section of the model card."""

        def row(name: str, result: Evaluation | TrainResult) -> list[str]:
            return [name, f"{result.val_loss:.4f}", f"{result.val_bpb:.4f}"]

        rows = [row("the model as it was", self.original), row("rewritten", self.before)]
        if self.after is not None:
            rows.append(row("healed", self.after))
        losses = table(["model", "loss (nats/token)", "bits/byte"], rows)
        return f"## Loss on held-out text of {self.text}\n\n{losses}\n\n{self._training()}"

    def _training(self) -> str:
        settings, after = self.settings, self.after
        if settings is None or after is None:
            return "Not trained after the surgery."
        rates = f"peak learning rate {settings.lr:g}"
        if settings.lr_new is not None:
            rates += f" ({settings.lr_new:g} for new parts)"
        frozen = f", without {', '.join(settings.freeze)}" if settings.freeze else ""
        kept = (
            f"These are the weights after step {self.step}, the best of those that were measured."
            if self.kept == "healed"
            else "No measured step was better than the rewritten model, whose weights these are."
        )
        return (
            f"Healed on {after.tokens:,} tokens ({after.epochs:.2f} epochs) of {self.text}, minimising "
            f"{LOSS_NAMES[settings.loss]}: sequences of {settings.seq_len}, steps of "
            f"{settings.step_tokens:,} tokens, {rates}, seed {settings.seed}{frozen}. {kept}"
        )
