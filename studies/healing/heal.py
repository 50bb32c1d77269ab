"""Healing one rewritten model, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from studies.data import TokenData
from studies.healing.distillation import Distillation
from studies.healing.parts import check_freeze, trained, training_only
from studies.healing.report import Healing
from studies.healing.settings import KL_SHARES, HealSettings
from studies.healing.teacher import OnBatch, Teacher, measure
from studies.training.best import Best
from studies.training.loop import Progress, TrainResult, train
from studies.training.objective import CrossEntropy, Objective
from studies.training.validation import Evaluation
from surgery.model import HybridLM


@dataclass
class Watch:
    """Callbacks that follow a healing; by default nothing is shown.

    Attributes:
        on_step: progress of the training.
        on_stage: progress of a measurement (stage, done, total).
        on_loss: a held-out loss (model, nats/token, bits/byte).
        on_refusal: training has made nothing better than this loss, in nats/token.
    """

    on_step: Callable[[Progress], None] | None = None
    on_stage: Callable[[str, int, int], None] = lambda stage, done, total: None
    on_loss: Callable[[str, float, float], None] = lambda what, loss, bpb: None
    on_refusal: Callable[[float], None] = lambda before: None

    def batches(self, what: str) -> OnBatch:
        """Return the callback of a measurement."""
        return lambda done, total: self.on_stage(f"loss of the {what} model, batch", done, total)

    def report(self, what: str, result: Evaluation | TrainResult) -> None:
        """Report a held-out loss."""
        self.on_loss(what, result.val_loss, result.val_bpb)


def heal(
    model: HybridLM,
    new: frozenset[str],
    teacher: Teacher,
    data: TokenData,
    settings: HealSettings,
    *,
    folder: Path | None = None,
    watch: Watch | None = None,
) -> Healing:
    """Train a rewritten model in place, in float32, and restore every tensor's dtype.

    The best weights by held-out loss are kept, those before the training among them.

    Args:
        model: the rewritten model; ends on the CPU, in evaluation mode.
        new: its tensors that are not the teacher's (`new_tensors`), which train with `settings.lr_new`.
        teacher: the original model, on the device that the training uses.
        data: tokens by the model's own tokenizer.
        settings: of the training.
        folder: where the state of the training is kept, so that the same call resumes it after this process
            was killed. None: nowhere.
        watch: callbacks.

    Raises:
        UserError: text, settings and model don't fit each other.
        TrainingFailed: the loss is not finite or exploded.
    """
    watch = watch or Watch()
    names = {name for name, _ in model.named_parameters()}
    check_freeze(names, settings.freeze)
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    original = teacher.loss(data, settings, watch.batches("original"))
    watch.report("original", original)
    model.float()
    before = measure(model, data, settings, teacher.device, watch.batches("rewritten"))
    watch.report("rewritten", before)
    best = Best(model, dtypes, before)
    with training_only(model, trained(names, settings.freeze)):
        result = _train(model, new, teacher, data, settings, folder, watch, best)
    best.write_to(model)
    restore_dtypes(model, dtypes)
    if best.step:  # once more, since rounding to the dtypes has changed them
        written = measure(model.float(), data, settings, teacher.device, watch.batches("healed"))
        restore_dtypes(model, dtypes)
        result = replace(result, val_loss=written.val_loss, val_bpb=written.val_bpb)
    watch.report("healed", result)
    if not best.step:
        watch.on_refusal(before.val_loss)
    return Healing(
        text_of(data), original, before, result, "healed" if best.step else "rewritten", best.step, settings
    )


def restore_dtypes(model: HybridLM, dtypes: dict[str, torch.dtype]) -> None:
    """Convert a trained model to these dtypes by parameter name, on the CPU, in evaluation mode."""
    model.cpu().eval()
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def text_of(data: TokenData) -> str:
    """Return the name of a text."""
    return str(data.meta["corpus"]["spec"])


def objective_of(settings: HealSettings, teacher: Teacher) -> Objective:
    """Return the objective of a healing."""
    share = KL_SHARES[settings.loss]
    return Distillation(teacher.model, share) if share else CrossEntropy()


def _train(
    model: HybridLM,
    new: frozenset[str],
    teacher: Teacher,
    data: TokenData,
    settings: HealSettings,
    folder: Path | None,
    watch: Watch,
    best: Best,
) -> TrainResult:
    scale = 1.0 if settings.lr_new is None else settings.lr_new / settings.lr
    return train(
        model, data, settings.training(), seed=settings.seed, device=teacher.device, on_step=watch.on_step,
        objective=objective_of(settings, teacher), scales=dict.fromkeys(new, scale), best=best,
        checkpoint=None if folder is None else folder / "healing.pt", resumable=folder is not None,
    )  # fmt: skip
