"""Measurement and healing between fitting and writing, for `nas apply`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from studies.data import TokenData
from studies.healing.control import control_loss
from studies.healing.heal import heal
from studies.healing.report import Healing
from studies.healing.saved import Saved, short_hash, weights_hash
from studies.healing.settings import HealSettings
from studies.healing.teacher import Teacher
from studies.healing.watch import Watch
from studies.training.batches import check_data
from surgery.apply.plan import Plan
from surgery.apply.source import SourceModel
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.model import HybridLM


class Healer:
    """Measures a rewritten model and trains it; pass it to `surgery.apply.pipeline.apply` as `heal`.

    A context: inside it, the state of the training is locked for this process.

    Attributes:
        healing: the losses, once it was called.
        out: the future folder of the model.
        watch: callbacks.
    """

    def __init__(
        self,
        source: SourceModel,
        planned: Plan,
        data: TokenData,
        settings: HealSettings,
        *,
        device: torch.device,
        out: str | os.PathLike[str] | None = None,
        calibration: Sequence[str] | None = None,
        hdpl_fit: str = "full",
        control: bool = False,
        watch: Watch | None = None,
    ) -> None:
        """Prepare for one surgery.

        Args:
            source: the original model.
            planned: the surgery.
            data: tokens by the model's own tokenizer.
            settings: of the training; without tokens the model is only measured.
            device: where to compute.
            out: the future folder of the model; the state of the training is kept beside it. None: nowhere.
            calibration: texts that operators are fitted to.
            hdpl_fit: form of the fits.
            control: train the original model by the same recipe, too.
            watch: callbacks.

        Raises:
            UserError: text and model don't fit.
        """
        self.source, self.planned, self.data, self.settings = source, planned, data, settings
        self.device, self.control, self.watch = device, control, watch or Watch()
        self.healing: Healing | None = None
        self.out = None if out is None else expand(out).absolute()
        longest = source.backbone.max_position_embeddings
        if settings.seq_len > longest:
            rule = f"exceeds the model's context of {longest} tokens"
            problem = Problem("--seq-len", settings.seq_len, rule, "give fewer")
            raise UserError("model and data don't fit", [problem])
        check_data(data, settings.training(), source.backbone.vocab_size)
        trains = settings.tokens or settings.align_tokens
        self.saved: Saved | None = None
        if out is not None and trains:
            self.saved = Saved(state_folder(out), self._key(calibration, hdpl_fit))

    def __enter__(self) -> Healer:
        """Lock the folder with the state of the training.

        Raises:
            UserError: another process uses it, or it can't be written.
        """
        if self.saved is not None:
            self.saved.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.saved is not None:
            self.saved.__exit__(kind, error, trace)

    def __call__(self, model: HybridLM) -> str:
        """Measure the model, train it in place if asked to, and return Markdown for the model card."""
        teacher = Teacher(self.source, self.device)
        control = None
        if self.control:
            control = control_loss(teacher, self.data, self.settings, self.watch)
        healing = heal(
            model, self.planned, teacher, self.data, self.settings, saved=self.saved, watch=self.watch
        )
        self.healing = replace(healing, control=control)
        return self.healing.card()

    def remove_state(self) -> None:
        """Delete the state of the training, once the result is verified."""
        if self.saved is not None:
            self.saved.remove()

    def _key(self, calibration: Sequence[str] | None, hdpl_fit: str) -> dict[str, Any]:
        """Return what the training depends on."""
        tensors = [(tensor.name, tensor.action, tensor.sources) for tensor in self.planned.tensors]
        return {
            "weights": weights_hash(self.source),
            "architecture": self.planned.after.to_dict(),
            "tensors": short_hash(tensors),
            "fold": self.planned.fold,
            "calibration": short_hash(list(calibration or ())),
            "hdpl_fit": hdpl_fit,
            "text": self.data.content_hash,
            "settings": asdict(self.settings),
            "device": self.device.type,
            "torch": torch.__version__,
        }


def state_folder(out: str | os.PathLike[str]) -> Path:
    """Return the folder beside a future model that holds the state of its healing."""
    path = expand(out).absolute()
    return path.with_name(f".{path.name}.healing")
