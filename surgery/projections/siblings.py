"""Projections of one and the same input, which may do better together than one by one."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from surgery.context import Context
from surgery.ops.plain import is_hooked


def project(
    x: Float[Tensor, "*batch d_in"], context: Context | None, *projections: nn.Module
) -> list[Float[Tensor, "*batch d_out"]]:
    """Return the output of each projection for x, in their order.

    Those of a class with a `together` (a static method: modules, x, context -> outputs) are run by it, all
    at once. The others are called one by one, and so is any that has hooks or a `forward` of its own.
    """
    found: dict[int, Tensor] = {}
    for index, projection in enumerate(projections):
        if not _joins(projection):
            found[index] = call(projection, x, context)
        elif index not in found:
            kind: Any = type(projection)
            members = [n for n, other in enumerate(projections) if type(other) is kind and _joins(other)]
            outputs = kind.together([projections[n] for n in members], x, context)
            found.update(zip(members, outputs, strict=True))
    return [found[index] for index in range(len(projections))]


def call(
    projection: nn.Module, x: Float[Tensor, "*batch d_in"], context: Context | None
) -> Float[Tensor, "*batch d_out"]:
    """Call a projection, or whatever replaced it. Only operators with `takes_context`, and wrappers around
    one, are given the context: an ordinary linear layer knows no second argument."""
    takes_context = any(getattr(type(module), "takes_context", False) for module in projection.modules())
    y: Tensor = projection(x, context) if takes_context else projection(x)
    return y


def _joins(projection: nn.Module) -> bool:
    """Return True where `together` of the projection's class gives what a call would give."""
    return "together" in type(projection).__dict__ and not is_hooked(projection)
