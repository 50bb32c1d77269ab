"""Projections of one and the same input, which may do better together than one by one."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from surgery.context import Context


def project(
    x: Float[Tensor, "*batch d_in"], context: Context | None, *projections: nn.Module
) -> list[Float[Tensor, "*batch d_out"]]:
    """What each projection makes of x, in their order.

    Neighbours of one class with a `together` (a static method: modules, x, context -> outputs) are run by it;
    dense ones in between don't part them. The others, and all where somebody hooked himself to one of them to
    see its input or output, are called one by one.
    """
    if len(projections) == 1 or any(p._forward_hooks or p._forward_pre_hooks for p in projections):
        return [projection(x, context) for projection in projections]
    found: dict[int, Tensor] = {}
    together = [index for index, projection in enumerate(projections) if hasattr(projection, "together")]
    for kind, members in groupby(together, lambda index: type(projections[index])):
        indices = list(members)
        run: Any = kind
        outputs = run.together([projections[index] for index in indices], x, context)
        found.update(zip(indices, outputs, strict=True))
    return [
        found[index] if index in found else projection(x, context)
        for index, projection in enumerate(projections)
    ]
