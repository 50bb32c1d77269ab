"""Models out of a library's parts and the original model's own tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from search_spaces.replacements import Replacements
from studies.healing.teacher import Teacher, placed
from studies.library.entries import Entry, chosen
from studies.library.library import Library
from surgery.architecture import Architecture
from surgery.config.backbone import PROJECTIONS
from surgery.hf.lazy import LazyModel, LazyTensor
from surgery.model import Block, HybridLM

_DENSE = frozenset(f"{name}.weight" for name in PROJECTIONS)


def assemble(teacher: Teacher, parts: Replacements, choice: Mapping[str, str], library: Library) -> HybridLM:
    """Return the model of a choice of replacements, in evaluation mode and without gradients.

    Tensors of the original are shared with it, not copied: training the model in place would change both.

    Args:
        teacher: the original model.
        parts: the space.
        choice: labels by part's name; parts that are not named are kept.
        library: with all these replacements.
    """
    architecture = parts.architecture(choice)
    own: dict[str, Tensor] = {}
    for entry in chosen(parts, choice):
        own |= _tensors(entry, library, teacher.device)
    state = teacher.model.state_dict()
    with torch.device("meta"):
        names = HybridLM(architecture).state_dict().keys()
    tensors = {name: LazyTensor.of(own[name] if name in own else state[name]) for name in names}
    return LazyModel(architecture, tensors).read().requires_grad_(False)


def replaced_block(teacher: Teacher, architecture: Architecture, entry: Entry, library: Library) -> Block:
    """Return the layer that a replacement belongs to, its other part and norms shared with the teacher.

    `architecture` has this replacement in this layer.
    """
    with torch.device("meta"):
        block = Block(architecture.backbone, architecture.layers[entry.layer])
    prefix = f"layers.{entry.layer}."
    own = _tensors(entry, library, teacher.device)
    state = teacher.model.layers[entry.layer].state_dict()
    block.load_state_dict(
        {name: own[prefix + name] if prefix + name in own else state[name] for name in block.state_dict()},
        assign=True,
    )
    return block.requires_grad_(False).eval()


def _tensors(entry: Entry, library: Library, device: torch.device) -> dict[str, Tensor]:
    """Return the tensors of a replacement by their names in the model, ready to compute with.

    Weights of dense projections have the dtype that the teacher's have; all others are in float32, as while
    a rewritten model is trained.
    """
    state = {} if entry.absent else library.state(entry)
    tensors = {}
    for name, value in state.items():
        whole = entry.prefix + name
        dense = name in _DENSE
        tensors[whole] = placed(whole, value, device) if dense else value.to(device, torch.float32)
    return tensors
