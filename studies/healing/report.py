"""Losses of a healing, as JSON and as a section of the model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from studies.healing.settings import HealSettings
from studies.training.loop import TrainResult
from studies.training.settings import OPTIMIZER_NAMES
from studies.training.validation import Evaluation
from surgery.hf.card import table

LOSS_NAMES = {
    "ce": "cross-entropy with the text",
    "kl": "KL divergence from the original model",
    "both": "the mean of the cross-entropy with the text and the KL divergence from the original model",
}


@dataclass(frozen=True)
class Control(Evaluation):
    """The trained control on the held-out text.

    Attributes:
        kl: KL divergence from the original model, nats/token; None of one that an earlier version measured.
    """

    kl: float | None = None


@dataclass(frozen=True)
class Healing:
    """Held-out losses of a surgery and of the training after it.

    Attributes:
        text: the corpus.
        original: the model that was rewritten.
        before: the rewritten model, before any training.
        aligned: the alignment; None without one.
        after: the training of the whole model; None without one.
        kept: the weights that were kept: `healed`, `aligned`, or `rewritten` where nothing was better. The
            loss of that training is the one of these weights as they are written; of another, the last one.
        step: the step of that training that the weights are from.
        settings: of the training.
        kl: KL divergence from the original model on the held-out text, nats/token, before the training and of
            the weights that were kept.
        control: the original model, trained likewise; None unless it was asked for.
    """

    text: str
    original: Evaluation
    before: Evaluation
    aligned: TrainResult | None
    after: TrainResult | None
    kept: str
    step: int
    settings: HealSettings
    kl: Mapping[str, float]
    control: Control | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, float, float, float | None]]:
        """Return (model, nats/token, bits/byte, KL from the original or None) of all that was measured."""
        named = {
            "the model as it was": self.original,
            "trained likewise, without a surgery": self.control,
            "rewritten": self.before,
            "aligned": self.aligned,
            "healed": self.after,
        }
        return [
            (name, of.val_loss, of.val_bpb, of.kl if isinstance(of, Control) else self.kl.get(name))
            for name, of in named.items()
            if of is not None
        ]

    def card(self) -> str:
        """Return the section of the model card."""
        rows = [
            [name, f"{loss:.4f}", f"{bpb:.4f}", f"{kl:.4f}" if kl is not None else ""]
            for name, loss, bpb, kl in self.rows()
        ]
        losses = table(["model", "loss (nats/token)", "bits/byte", "KL from the original (nats/token)"], rows)
        training = "\n\n".join(self._training()) or "Not trained after the surgery."
        return f"## Loss on held-out text of {self.text}\n\n{losses}\n\n{training}"

    def _training(self) -> Iterator[str]:
        settings = self.settings
        where = (
            f"of {self.text}, in sequences of {settings.seq_len} and steps of {settings.step_tokens:,} tokens"
        )
        if self.aligned is not None:
            yield (
                f"New parts aligned with the original's on {self.aligned.tokens:,} tokens {where}, peak "
                f"learning rate {settings.align_lr:g} ({settings.align_lr_carried:g} for transplanted ones)."
            )
        if self.after is not None:
            rates = f"{OPTIMIZER_NAMES[settings.optimizer]}, peak learning rate {settings.lr:g}"
            if settings.lr_new is not None:
                rates += f" ({settings.lr_new:g} for new parts)"
            else:
                rates += f" ({settings.rate('new'):g} for transplanted and new parts)"
            if settings.hidden_weight:
                rates += f", hidden states weighted by {settings.hidden_weight:g}"
            if settings.lora is not None:
                rates += f", adapters of rank {settings.lora} in place of the original's tensors"
            frozen = f", without {', '.join(settings.freeze)}" if settings.freeze else ""
            yield (
                f"Healed on {self.after.tokens:,} tokens ({self.after.epochs:.2f} epochs) {where}, "
                f"minimising {LOSS_NAMES[settings.loss]}: {rates}, seed {settings.seed}{frozen}."
            )
        if self.aligned is not None or self.after is not None:
            yield (
                f"These are the weights after step {self.step} of the {self.kept} model, the best of those "
                "that were measured on the held-out text."
                if self.step
                else "No measured step was better than the rewritten model, so these are its weights."
            )
