"""Alignment of a library: all layers' replacements of one kind are trained at once, each on its own part's
activations in the original model. One that does not come nearer on held-out text stays as it was fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from search_spaces.library import LibrarySettings
from search_spaces.replacements import Replacements
from studies.data import TokenData
from studies.healing.alignment import output_distance
from studies.healing.parts import training_only
from studies.healing.settings import HealSettings
from studies.healing.stages import Stage, stages
from studies.healing.teacher import Teacher
from studies.library.assemble import assemble
from studies.library.entries import Entry
from studies.library.library import Library
from studies.library.prefix import batch_size
from studies.library.text import scored_sequences
from studies.training.devices import autocast, to_device
from studies.training.loop import train
from surgery.apply.plan import plan
from surgery.apply.source import SourceModel
from surgery.model import HybridLM

SEED = 0  # of the order of the text, and of the noise of HDPL


def align(
    library: Library,
    source: SourceModel,
    parts: Replacements,
    entries: Iterable[Entry],
    data: TokenData,
    settings: LibrarySettings,
    device: torch.device,
    progress: Callable[[str, int, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Train the fitted replacements that are not aligned yet, kind by kind; arguments as in `build`.

    An interrupted alignment starts again with the kind that it was at.

    Raises:
        Interrupted: `should_stop` returned True.
        TrainingFailed: the distance from the original's outputs is not finite.
    """
    kinds: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        if not library.is_aligned(entry):
            kinds.setdefault((entry.part, entry.label), []).append(entry)
    if not kinds:
        return
    teacher = Teacher(source, device)
    for (_, label), group in kinds.items():
        choice = dict(entry.key for entry in group)
        planned = plan(source, parts.architecture(choice), stock=False)
        model = assemble(teacher, parts, choice, library)
        _own(model, group)
        names = [name for name, _ in model.named_parameters()]
        stage = next(iter(stages(planned, names, teacher, _settings(settings))))
        title = f"aligning {label}, steps"
        tokens = _held_out(data, settings)
        before = _distances(teacher, model, group, tokens)
        _train(
            model, stage, data, device, lambda done, total, title=title: progress(title, done, total),  # type: ignore[misc]
            should_stop,
        )  # fmt: skip
        after = _distances(teacher, model.eval(), group, tokens)
        dtypes = {tensor.name: getattr(torch, tensor.dtype) for tensor in planned.tensors}
        for entry, old, new in zip(group, before, after, strict=True):
            _write(library, model, dtypes, entry, old, new)


def _own(model: HybridLM, group: Iterable[Entry]) -> None:
    """Give the replaced parts tensors of their own in float32, since training changes them in place."""
    for entry in group:
        for parameter in _part(model, entry).parameters():
            parameter.data = parameter.data.to(torch.float32, copy=True)


def _settings(settings: LibrarySettings) -> HealSettings:
    """Return the settings of an alignment, with nearly no evaluation: a model whose every layer has the same
    replacement is of no interest.
    """
    tokens, length = max(settings.align_tokens, settings.seq_len), settings.seq_len
    usual = HealSettings(
        tokens=0, align_tokens=tokens, seq_len=length, eval_tokens=length, eval_every=tokens, seed=SEED
    )
    return replace(usual, batch_tokens=min(usual.step_tokens, tokens // length * length))


def _train(
    model: HybridLM,
    stage: Stage,
    data: TokenData,
    device: torch.device,
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Run the training of a stage."""
    with training_only(model, frozenset(stage.rates)):
        train(
            model, data, stage.training, seed=SEED, device=device, objective=stage.objective,
            scales=stage.scales, should_stop=should_stop,
            on_step=lambda now: progress(now.step, now.steps),
        )  # fmt: skip


def _held_out(data: TokenData, settings: LibrarySettings) -> Int[Tensor, "n t"]:
    """Return the held-out sequences that decide whether an alignment is kept: those of the scores."""
    rows = range(scored_sequences(data, settings))
    return torch.from_numpy(data.batch(rows, settings.seq_len, "val")[:, :-1])


@torch.no_grad()
def _distances(
    teacher: Teacher, model: HybridLM, group: Sequence[Entry], tokens: Int[Tensor, "n t"]
) -> list[float]:
    """Return the distance of each replacement's outputs from the original's (`output_distance`)."""
    sums = [0.0] * len(group)

    def compare(index: int, part: nn.Module) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            x, context = inputs
            ours = part(x, replace(context, losses=[]))
            sums[index] += len(x) * float(output_distance(ours, output))

        return hook

    hooks = [
        _part(teacher.model, entry).register_forward_hook(compare(index, _part(model, entry)))
        for index, entry in enumerate(group)
    ]
    try:
        for batch in tokens.split(batch_size(teacher, tokens)):
            with autocast(teacher.device):
                teacher.model(to_device(batch.numpy(), teacher.device))
    finally:
        for hook in hooks:
            hook.remove()
    return [total / len(tokens) for total in sums]


def _part(model: HybridLM, entry: Entry) -> nn.Module:
    return model.get_submodule(entry.prefix.removesuffix("."))


def _write(
    library: Library,
    model: HybridLM,
    dtypes: Mapping[str, torch.dtype],
    entry: Entry,
    before: float,
    after: float,
) -> None:
    """Write a trained part in the dtypes of its plan, or the fitted one again if that is nearer."""
    tensors = library.state(entry)
    if after < before:
        tensors = {
            name: tensor.to(dtypes[entry.prefix + name])
            for name, tensor in _part(model, entry).state_dict().items()
        }
    errors = {**library.errors(entry), "fitted": before, "aligned": min(before, after)}
    library.add(entry, tensors, errors=errors, aligned=True)
