"""A surgery with healing as it is asked for: checked, planned, given its text, and run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from studies.data import TokenData
from studies.healing.checks import check_plan
from studies.healing.healer import Healer
from studies.healing.settings import HealSettings, check_heal
from studies.healing.text import calibration_texts, check_text
from studies.healing.watch import Watch
from studies.training.devices import pick_device
from studies.training.pretrain import DataProgress, open_text
from surgery.apply.pipeline import ApplyReport, apply
from surgery.apply.plan import Plan, plan
from surgery.apply.source import SourceModel, read_source
from surgery.architecture import Architecture
from surgery.hf.staging import check_target

NO_TEXT = "none"  # value of `calibrate`


@dataclass(frozen=True)
class ApplyRequest:
    """Options of a surgery. They are those of `nas apply`, and None means the same default.

    Attributes:
        architecture: what the model becomes; missing fields of its backbone are the model's.
        model: a folder or a Hub id.
        output: folder for the result; None only in a dry run.
        fold: how folded layers are merged, see `surgery.apply.plan.plan`.
        export: `auto` writes a class of transformers where one computes the same, `nas` never.
        calibrate: text for the activations that operators are fitted to, or NO_TEXT.
        hdpl_fit: form of fitted latents, see `surgery.apply.fit.FORMS`.
        calibrate_tokens: about as many tokens of it are used.
        heal: training tokens; None: no training.
        align: tokens of the alignment before it; None: none.
        data: text for the training and for losses; None: the built-in text, if there is a training.
        control: train the original model by the same recipe, too.

    The others are those of `HealSettings`.
    """

    architecture: str | os.PathLike[str] | Mapping[str, Any] | Architecture
    model: str
    output: str | os.PathLike[str] | None = None
    dry_run: bool = False
    fold: str = "average"
    export: str = "auto"
    hdpl_fit: str = "full"
    calibrate: str = "builtin"
    calibrate_tokens: int = 8192
    heal: int | None = None
    align: int | None = None
    data: str | None = None
    heal_loss: str = HealSettings.loss
    heal_optimizer: str = HealSettings.optimizer
    lr: float = HealSettings.lr
    lr_new: float | None = None
    hidden_weight: float = 0.0
    lora: int | None = None
    checkpoint_activations: bool = False
    freeze: tuple[str, ...] = ()
    control: bool = False
    seq_len: int = HealSettings.seq_len
    batch_tokens: int | None = None
    eval_every: int | None = None
    seed: int = 0
    overwrite: bool = False
    device: str = "auto"

    @property
    def settings(self) -> HealSettings:
        """Settings of the healing; without tokens the model is only measured."""
        return HealSettings(
            tokens=self.heal or 0,
            align_tokens=self.align or 0,
            seq_len=self.seq_len,
            batch_tokens=self.batch_tokens,
            loss=self.heal_loss,
            optimizer=self.heal_optimizer,
            lr=self.lr,
            lr_new=self.lr_new,
            hidden_weight=self.hidden_weight,
            lora=self.lora,
            checkpoint_activations=self.checkpoint_activations,
            freeze=self.freeze,
            eval_every=self.eval_every,
            seed=self.seed,
        )

    def plan(self) -> Surgery:
        """Check the options, read the checkpoint's headers, and plan.

        Raises:
            UserError: an option is not valid, or architecture, model and output don't fit each other.
        """
        pick_device(self.device)
        check_heal(self.settings)
        if self.calibrate != NO_TEXT:
            check_text(self.calibrate, "--calibrate")
        if self.data is not None:
            check_text(self.data, "--data")
        source = read_source(self.model)
        if self.output is not None:
            check_target(self.output, overwrite=self.overwrite, source=source.folder)
        planned = plan(
            source, self.architecture, fold=self.fold, out=self.output, stock=self.export == "auto"
        )
        check_plan(planned, self.settings)
        return Surgery(self, source, planned)


@dataclass(frozen=True)
class Surgery:
    """A planned request."""

    request: ApplyRequest
    source: SourceModel
    planned: Plan

    @cached_property
    def calibration(self) -> list[str] | None:
        """Texts that operators are fitted to; None if they have no effect or are not wanted.

        Raises:
            UserError: the text can't be read.
        """
        if not self.planned.uses_text or self.request.calibrate == NO_TEXT:
            return None
        return calibration_texts(self.request.calibrate, self.request.calibrate_tokens)

    def open_text(self, on_data: DataProgress | None = None) -> TokenData | None:
        """Return the text for training and losses, prepared if it is not yet; None if none is needed.

        Raises:
            UserError: the text can't be read.
        """
        request, settings = self.request, self.request.settings
        trains = settings.tokens or settings.align_tokens
        if request.dry_run or not (trains or request.data is not None):
            return None
        wanted = settings.tokens + settings.align_tokens if trains else settings.eval_tokens
        return open_text(request.data or "builtin", str(self.source.folder), wanted, on_data)

    def healer(self, text: TokenData | None, watch: Watch | None = None) -> Healer | None:
        """Return what measures and trains the result; None without a text.

        Raises:
            UserError: text and model don't fit each other.
        """
        if text is None:
            return None
        request = self.request
        return Healer(
            self.source,
            self.planned,
            text,
            request.settings,
            device=pick_device(request.device),
            out=request.output,
            calibration=self.calibration,
            hdpl_fit=request.hdpl_fit,
            control=request.control,
            watch=watch,
        )

    def run(
        self, healer: Healer | None = None, progress: Callable[[str, int, int], None] | None = None
    ) -> ApplyReport:
        """Rewrite the model, heal it, verify the result and move it into place.

        Raises:
            UserError: the checkpoint, the text or the output can't be used, or the verification failed.
            TrainingFailed: the loss is not finite or exploded.
        """
        request = self.request
        with healer or nullcontext():
            return apply(
                self.source,
                request.architecture,
                request.output,
                dry_run=request.dry_run,
                fold=request.fold,
                hdpl_fit=request.hdpl_fit,
                stock=request.export == "auto",
                calibration=None if request.dry_run else self.calibration,
                heal=healer,
                on_verified=healer.remove_state if healer is not None else None,
                overwrite=request.overwrite,
                device=pick_device(request.device),
                progress=progress,
            )
