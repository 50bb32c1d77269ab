"""Padding: rows are aligned so that the layers see all padding on the left.

Sliding windows, the inputs of a convolution and the contents of a cache are counted from the end of a row,
which requires that no padding is between or after the real tokens. New tokens are therefore moved to the
right of their rows before the first layer and back after the last, and cached columns are moved next to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """Positions of the real tokens of a forward pass, before and after alignment.

    Attributes:
        given: True at real tokens, cached and new ones, in the caller's columns.
        real: the same in the layers' columns: the last ones of each row.
        order: the caller's column of each of the layers' new tokens; None: the columns are the same.
        gap: columns of padding between the cached and the new tokens of each row; None: none in any row.
    """

    given: Bool[Tensor, "b s"]
    real: Bool[Tensor, "b s"]
    order: Int[Tensor, "b t"] | None
    gap: Int[Tensor, "b 1"] | None

    def align(self, x: Shaped[Tensor, "#b t *rest"]) -> Shaped[Tensor, "#b t *rest"]:
        """Move (b, t, ...) or (1, t, ...) from the caller's columns to those of the layers."""
        return x if self.order is None else _take(x, self.order)

    def restore(self, x: Shaped[Tensor, "b t *rest"]) -> Shaped[Tensor, "b t *rest"]:
        """Move (b, t, ...) back to the caller's columns."""
        return x if self.order is None else _take(x, self.order.argsort(dim=1))


def read_padding(
    attention_mask: Tensor | None, known: Bool[Tensor, "b past"] | None, batch: int, past: int, new: int
) -> Padding | None:
    """Return the padding of a pass of `new` tokens after `past` cached ones; None: there is none.

    Args:
        attention_mask: (batch, past + new), nonzero at real tokens. None: all new tokens are real.
        known: True at the cached tokens that are real. None: all are.
        batch: number of rows.
        past: number of cached tokens.
        new: number of new tokens.

    Raises:
        ValueError: the mask has another shape, or differs from earlier passes at cached tokens.
    """
    if attention_mask is None:
        if known is None:
            return None
        given = torch.cat((known, known.new_ones(batch, new)), dim=1)
    else:
        shape = tuple(attention_mask.shape)
        if shape != (batch, past + new):
            raise ValueError(
                f"attention_mask: must have the shape {(batch, past + new)} of (sequences, cached and new "
                f"tokens), not {shape}"
            )
        given = attention_mask.bool()
        if known is None and bool(given.all()):
            return None  # the fast causal path
        if past and not _equal(given[:, :past], known):
            raise ValueError(
                "attention_mask: must be for cached tokens what it was when they were cached; padding can't "
                "become text afterwards, nor text padding. Start again without past_key_values"
            )
    return _aligned(given, past)


def close_gaps(
    whole: Shaped[Tensor, " b *rest"], new: int, gap: Int[Tensor, "b 1"], dim: int
) -> Shaped[Tensor, " b *rest"]:
    """Move the columns before the last `new` ones to the right, over the padding between them.

    The columns left of a row's real ones are arbitrary afterwards.
    """
    size = whole.shape[dim]
    columns = torch.arange(size, device=whole.device)[None]
    source = torch.where(columns < size - new + gap, columns - gap, columns).clamp(min=0)
    shape = [1] * whole.ndim
    shape[0], shape[dim] = source.shape
    return whole.take_along_dim(source.view(shape), dim=dim)


def _aligned(given: Bool[Tensor, "b s"], past: int) -> Padding:
    total = given.shape[1]
    new = given[:, past:]
    columns = torch.arange(total, device=given.device)[None]
    gap = (~new).sum(1, keepdim=True)
    crossed = past > 0 and bool(gap.any())
    moves = new.shape[1] > 1 and not torch.equal(new, columns[:, : new.shape[1]] >= gap)
    return Padding(
        given,
        real=columns >= (~given).sum(1, keepdim=True),
        order=new.long().argsort(dim=1, stable=True) if moves else None,
        gap=gap if crossed else None,
    )


def _equal(given: Bool[Tensor, "b past"], known: Bool[Tensor, "b past"] | None) -> bool:
    return bool(given.all()) if known is None else torch.equal(given, known)


def _take(x: Shaped[Tensor, "#b t *rest"], order: Int[Tensor, "b t"]) -> Shaped[Tensor, "b t *rest"]:
    if x.ndim > 2:
        order = order.view(*order.shape, *[1] * (x.ndim - 2))
    return x.take_along_dim(order, dim=1)
