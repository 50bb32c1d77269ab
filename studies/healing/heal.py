"""Healing one rewritten model, in memory: aligned, distilled, and never worse than before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch

from studies.data import TokenData
from studies.healing.adapters import add_adapters, merge_adapters, plain_name
from studies.healing.parts import new_tensors, recomputing, training_only
from studies.healing.report import Healing
from studies.healing.saved import Saved
from studies.healing.settings import HealSettings
from studies.healing.stages import Stage, stages
from studies.healing.teacher import Teacher, measure
from studies.healing.watch import Watch
from studies.training.best import Best
from studies.training.loop import TrainResult, train
from studies.training.validation import Evaluation
from surgery.apply.plan import Plan
from surgery.config.problems import Problem, UserError
from surgery.model import HybridLM


def heal(
    model: HybridLM,
    planned: Plan,
    teacher: Teacher,
    data: TokenData,
    settings: HealSettings,
    *,
    saved: Saved | None = None,
    watch: Watch | None = None,
    divergence: bool = True,
) -> Healing:
    """Measure a rewritten model, train it in place in float32, and restore every tensor's dtype.

    The best weights by held-out loss are kept, those before the training among them.

    Args:
        model: the rewritten model; ends on the CPU, in evaluation mode.
        planned: the surgery that it comes from.
        teacher: the original model, on the device that the training uses.
        data: tokens by the model's own tokenizer.
        settings: of the training; without tokens the model is only measured.
        saved: an open folder for the state of the training, from which the same call resumes it after this
            process was killed. None: nothing is kept.
        watch: callbacks.
        divergence: measure that from the teacher on the held-out text, too; else `kl` of the result is empty.

    Raises:
        UserError: text, settings and model don't fit each other.
        TrainingFailed: the loss is not finite or exploded.
    """
    watch = watch or Watch()
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    model.float()
    if settings.lora is not None:
        add_adapters(model, new_tensors(planned), settings.lora, settings.seed)
    names = [name for name, _ in model.named_parameters()]
    planned_stages = list(stages(planned, names, teacher, settings))

    def held_out(what: str, compute: Callable[[], Evaluation]) -> Evaluation:
        result = compute() if saved is None else saved.loss(what, compute)
        watch.report(what, result)
        return result

    def measured(what: str) -> Evaluation:
        return measure(model, data, settings, teacher.device, watch.batches(what))

    original = held_out("original", lambda: teacher.loss(data, settings, watch.batches("original")))
    before = held_out("rewritten", lambda: measured("rewritten"))
    kl: dict[str, float] = {}
    if divergence:
        from_teacher = partial(teacher.divergence, model, data, settings)
        kl["rewritten"] = from_teacher() if saved is None else saved.divergence("rewritten", from_teacher)
    kept_dtypes = {name: dtypes.get(plain_name(name), torch.float32) for name in model.state_dict()}
    best = Best(model, kept_dtypes, before)
    results: dict[str, TrainResult] = {}
    for stage in planned_stages:
        best.label = stage.name
        results[stage.name] = _train(model, stage, teacher, data, settings, best, saved, watch)
        watch.report(stage.name, results[stage.name])
    best.write_to(model)
    if settings.lora is not None:
        merge_adapters(model)
    restore_dtypes(model, dtypes)
    if best.kept in results:  # as they will be written: rounding to the dtypes has changed them
        model.float()
        written = measured(best.kept)
        if divergence:
            kl[best.kept] = teacher.divergence(model, data, settings)
        restore_dtypes(model, dtypes)
        results[best.kept] = replace(results[best.kept], val_loss=written.val_loss, val_bpb=written.val_bpb)
    elif results:
        watch.on_note(
            f"no held-out loss of the training was below {before.val_loss:.4f}, that of the rewritten model: "
            "its weights are kept"
        )
    return Healing(
        text=text_of(data), original=original, before=before, aligned=results.get("aligned"),
        after=results.get("healed"), kept=best.kept, step=best.step, settings=settings, kl=kl,
    )  # fmt: skip


def restore_dtypes(model: HybridLM, dtypes: Mapping[str, torch.dtype]) -> None:
    """Convert a trained model to these dtypes by parameter name, on the CPU, in evaluation mode."""
    model.cpu().eval()
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def text_of(data: TokenData) -> str:
    """Return the name of a text."""
    return str(data.meta["corpus"]["spec"])


def _train(
    model: HybridLM,
    stage: Stage,
    teacher: Teacher,
    data: TokenData,
    settings: HealSettings,
    best: Best,
    saved: Saved | None,
    watch: Watch,
) -> TrainResult:
    """Run one stage, from its checkpoint if there is one."""
    checkpoint = saved.checkpoint(stage.name) if saved is not None else None
    if checkpoint is not None and checkpoint.is_file():
        watch.on_note(f"resuming the training of the {stage.name} model")
    recomputes = settings.checkpoint_activations
    with training_only(model, frozenset(stage.rates)), recomputing(model, recomputes):
        try:
            return train(
                model, data, stage.training, seed=settings.seed, device=teacher.device,
                on_step=lambda now: watch.on_step(stage.name, now), checkpoint=checkpoint,
                save_at=stage.save_at, objective=stage.objective, scales=stage.scales, best=best,
                skip=stage.skip,
            )  # fmt: skip
        except OSError as error:
            problem = Problem("output", str(checkpoint), f"can't be written: {error.strerror or error}")
            raise UserError("can't keep the state of the training", [problem]) from error
