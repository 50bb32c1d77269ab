"""The parameters of a rewritten model that are new, and those that are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from surgery.apply.plan import Plan
from surgery.model import Block, HybridLM

# actions of a plan that leave the original's weights in place, and those that put them into another part
CARRIED = ("kept", "averaged", "shared")
MOVED = ("transplanted", "pruned")
NEAR = ("fitted", "pruned")  # that leave a part computing nearly the same


def new_tensors(plan: Plan) -> frozenset[str]:
    """Return the tensors of a plan that are not the original's."""
    return frozenset(tensor.name for tensor in plan.tensors if tensor.action not in CARRIED)


def trained(names: Iterable[str], freeze: Iterable[str]) -> frozenset[str]:
    """Return the names that no pattern matches."""
    patterns = tuple(freeze)
    return frozenset(name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns))


@contextmanager
def training_only(model: nn.Module, names: frozenset[str]) -> Iterator[None]:
    """Let only these parameters have gradients inside of the block, and all afterwards."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    try:
        yield
    finally:
        model.requires_grad_(True)


@contextmanager
def recomputing(model: HybridLM, wanted: bool) -> Iterator[None]:
    """Recompute the activations of each layer in the backward pass inside of the block, if wanted."""
    blocks = [block for block in model.layers if isinstance(block, Block)] if wanted else []
    for block in blocks:
        block.checkpoint = partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            block.checkpoint = None
