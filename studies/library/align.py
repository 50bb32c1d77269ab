"""Alignment of a library: all layers' replacements of one kind are trained at once, each on its own part's
activations in the original model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from search_spaces.library import LibrarySettings
from search_spaces.replacements import Replacements
from studies.data import TokenData
from studies.healing.parts import training_only
from studies.healing.settings import HealSettings
from studies.healing.stages import Stage, stages
from studies.healing.teacher import Teacher
from studies.library.assemble import assemble
from studies.library.entries import Entry
from studies.library.library import Library
from studies.training.loop import train
from surgery.apply.plan import Plan, plan
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
        _train(
            model, stage, data, device, lambda done, total, title=title: progress(title, done, total),  # type: ignore[misc]
            should_stop,
        )  # fmt: skip
        _write(library, model, planned, group)


def _own(model: HybridLM, group: Iterable[Entry]) -> None:
    """Give the replaced parts tensors of their own in float32, since training changes them in place."""
    for entry in group:
        for parameter in model.get_submodule(entry.prefix.removesuffix(".")).parameters():
            parameter.data = parameter.data.to(torch.float32, copy=True)


def _settings(settings: LibrarySettings) -> HealSettings:
    """Return the settings of an alignment, with nearly no evaluation: a model whose every layer has the same
    replacement is of no interest.
    """
    return HealSettings(
        tokens=0, align_tokens=settings.align_tokens, seq_len=settings.seq_len,
        eval_tokens=settings.seq_len, eval_every=settings.align_tokens, seed=SEED,
    )  # fmt: skip


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


def _write(library: Library, model: HybridLM, planned: Plan, group: Iterable[Entry]) -> None:
    """Write the trained parts in the dtypes of their plan."""
    dtypes = {tensor.name: getattr(torch, tensor.dtype) for tensor in planned.tensors}
    state = model.state_dict()
    for entry in group:
        tensors = {
            name.removeprefix(entry.prefix): tensor.to(dtypes[name])
            for name, tensor in state.items()
            if name.startswith(entry.prefix)
        }
        library.add(entry, tensors, aligned=True)
