"""The two paths to a projection's output, y = BlockDiag(x) + D h (+ b), without a tensor in between.

The slices of x, y and their gradients that belong to blocks are strided views (blocks, tokens, width) of
(tokens, d): batched products read them and add to them where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.projections.hdpl.narrow_triton import (
    fits_narrow,
    input_gradients_narrow,
    weight_gradients_narrow,
)
from surgery.projections.hdpl.paths_triton import fits_outputs, output_fused


def by_block(x: Float[Tensor, "t d"], blocks: int) -> Float[Tensor, "n t width"]:
    slices: Tensor = x.unflatten(1, (blocks, -1)).transpose(0, 1)
    return slices


def output(
    x: Float[Tensor, "t d_in"],
    h: Float[Tensor, "t rank"],
    blocks: Float[Tensor, "n rows columns"],
    decoder: Float[Tensor, "d_out rank"],
    bias: Float[Tensor, " d_out"] | None,
) -> Float[Tensor, "t d_out"]:
    """y, all in one dtype. `h` may be a slice of columns."""
    if fits_outputs(x):
        return output_fused(x, h, blocks, decoder, bias)
    return output_plainly(x, h, blocks, decoder, bias)


def output_plainly(x: Tensor, h: Tensor, blocks: Tensor, decoder: Tensor, bias: Tensor | None) -> Tensor:
    """`output` in plain torch."""
    y = torch.nn.functional.linear(h, decoder, bias)
    _add_product(by_block(y, len(blocks)), by_block(x, len(blocks)), blocks.transpose(1, 2))
    return y


def input_gradients(
    d_ys: Sequence[Float[Tensor, "t d_out"]],
    blocks: Sequence[Float[Tensor, "n rows columns"]],
    decoders: Sequence[Float[Tensor, "d_out rank"]],
) -> tuple[Float[Tensor, "t d_in"], Float[Tensor, "t ranks"]]:
    """(gradient of x through all siblings' blocks, gradients of their h side by side)."""
    if fits_narrow(d_ys[0], blocks, decoders):
        return input_gradients_narrow(d_ys, blocks, decoders)
    return input_gradients_plainly(d_ys, blocks, decoders)


def input_gradients_plainly(
    d_ys: Sequence[Tensor], blocks: Sequence[Tensor], decoders: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """`input_gradients` in plain torch."""
    n, _, columns = blocks[0].shape
    d_x = d_ys[0].new_empty(len(d_ys[0]), n * columns)
    torch.bmm(by_block(d_ys[0], n), blocks[0], out=by_block(d_x, n))
    for d_y, block in zip(d_ys[1:], blocks[1:], strict=True):
        _add_product(by_block(d_x, len(block)), by_block(d_y, len(block)), block)
    ranks = [decoder.shape[1] for decoder in decoders]
    d_h = d_x.new_empty(len(d_x), sum(ranks))
    for d_y, decoder, mine in zip(d_ys, decoders, d_h.split(ranks, dim=1), strict=True):
        torch.mm(d_y, decoder, out=mine)
    return d_x, d_h


def weight_gradients(
    x: Float[Tensor, "t d_in"],
    h: Float[Tensor, "t ranks"],
    d_ys: Sequence[Float[Tensor, "t d_out"]],
    blocks: Sequence[Float[Tensor, "n rows columns"]],
    decoders: Sequence[Float[Tensor, "d_out rank"]],
) -> tuple[list[Float[Tensor, "n rows columns"]], list[Float[Tensor, "d_out rank"]]]:
    """(gradients of the blocks, gradients of the decoders) of all siblings."""
    if fits_narrow(x, blocks, decoders):
        return weight_gradients_narrow(x, h, d_ys, blocks)
    return weight_gradients_plainly(x, h, d_ys, blocks, decoders)


def weight_gradients_plainly(
    x: Tensor, h: Tensor, d_ys: Sequence[Tensor], blocks: Sequence[Tensor], decoders: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """`weight_gradients` in plain torch."""
    counts = [len(block) for block in blocks]
    ranks = [decoder.shape[1] for decoder in decoders]
    d_blocks = [
        torch.bmm(by_block(d_y, n).transpose(1, 2), by_block(x, n))
        for d_y, n in zip(d_ys, counts, strict=True)
    ]
    return d_blocks, [d_y.t() @ mine for d_y, mine in zip(d_ys, h.split(ranks, dim=1), strict=True)]


def block_diagonal(
    x: Float[Tensor, "t d_in"], blocks: Float[Tensor, "n rows columns"]
) -> Float[Tensor, "t d_out"]:
    """Each slice of x through its own block, in differentiable steps; under autocast both are cast."""
    return torch.bmm(by_block(x, len(blocks)), blocks.transpose(1, 2)).transpose(0, 1).flatten(1)


def _add_product(
    total: Float[Tensor, "n t a"], left: Float[Tensor, "n t b"], right: Float[Tensor, "n b a"]
) -> None:
    torch.baddbmm(total, left, right, out=total)
