"""Projections of the same input, which some operators compute together faster than one by one."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from surgery.context import Context
from surgery.ops.plain import is_hooked
from surgery.projections.deltas import Deltas


def project(
    x: Float[Tensor, "*batch d_in"], context: Context | None, *projections: nn.Module
) -> list[Float[Tensor, "*batch _"]]:
    """Return the output of each projection for x, in their order.

    Projections of a class with a static method `together` (modules, x, context -> outputs) are computed
    together by it. The others are called one by one, as is any that has hooks or its own `forward`. In later
    passes of a loop, what a projection has of its own there (`Deltas`) is added.
    """
    outputs: dict[int, Tensor] = {}
    loop = 0 if context is None else context.slot[1]
    for index, projection in enumerate(projections):
        if not _joins(projection):
            outputs[index] = call(projection, x, context)
        elif index not in outputs:
            kind: Any = type(projection)
            members = [n for n, other in enumerate(projections) if type(other) is kind and _joins(other)]
            joint = kind.together([projections[n] for n in members], x, context)
            outputs.update(zip(members, joint, strict=True))
    if loop > 0:
        for index, projection in enumerate(projections):
            if (deltas := _deltas(projection)) is not None:
                outputs[index] = outputs[index] + deltas(x, loop - 1)
    return [outputs[index] for index in range(len(projections))]


def call(
    projection: nn.Module, x: Float[Tensor, "*batch d_in"], context: Context | None
) -> Float[Tensor, "*batch d_out"]:
    """Call a projection, or the module that replaced it.

    The context is passed only to operators with `takes_context` and wrappers around them: an ordinary linear
    layer has no second argument.
    """
    takes_context = any(getattr(type(module), "takes_context", False) for module in projection.modules())
    y: Tensor = projection(x, context) if takes_context else projection(x)
    return y


def _deltas(projection: nn.Module) -> Deltas | None:
    """Return the changes in later passes of a projection, which an adapter may have wrapped."""
    return next((module for module in projection.modules() if isinstance(module, Deltas)), None)


def _joins(projection: nn.Module) -> bool:
    """Return whether `together` of the projection's class is equivalent to calling it."""
    return "together" in type(projection).__dict__ and not is_hooked(projection)
