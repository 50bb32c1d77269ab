"""Projections of one and the same input, which may do better together than one by one."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from surgery.context import Context


def project(
    x: Float[Tensor, "*batch d_in"], context: Context | None, *projections: nn.Module
) -> list[Float[Tensor, "*batch d_out"]]:
    """What each projection makes of x, in their order.

    Those of a class with a `together` (a static method: modules, x, context -> outputs) are run by it, all
    at once; the others, and all where somebody hooked himself to one of them to see its input or output, are
    called one by one.
    """
    if len(projections) == 1 or any(p._forward_hooks or p._forward_pre_hooks for p in projections):
        return [projection(x, context) for projection in projections]
    found: dict[int, Tensor] = {}
    for index, projection in enumerate(projections):
        kind: Any = type(projection)
        if not hasattr(kind, "together"):
            found[index] = projection(x, context)
        elif index not in found:
            members = [place for place, other in enumerate(projections) if type(other) is kind]
            outputs = kind.together([projections[place] for place in members], x, context)
            found.update(zip(members, outputs, strict=True))
    return [found[index] for index in range(len(projections))]
