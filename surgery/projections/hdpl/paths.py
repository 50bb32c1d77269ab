"""The two paths to a projection's output, y = BlockDiag(x) + D h (+ b), without a tensor in between.

The slices of x, y and their gradients that belong to blocks are strided views (blocks, tokens, width) of
(tokens, d): batched products read them and add to them where they lie.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

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


def add_input_gradient(
    d_x: Float[Tensor, "t d_in"], d_y: Float[Tensor, "t d_out"], blocks: Float[Tensor, "n rows columns"]
) -> None:
    """Adds to d_x what comes through the blocks."""
    _add_product(by_block(d_x, len(blocks)), by_block(d_y, len(blocks)), blocks)


def block_gradient(
    x: Float[Tensor, "t d_in"], d_y: Float[Tensor, "t d_out"], blocks: int
) -> Float[Tensor, "n rows columns"]:
    return torch.bmm(by_block(d_y, blocks).transpose(1, 2), by_block(x, blocks))


def block_diagonal(
    x: Float[Tensor, "t d_in"], blocks: Float[Tensor, "n rows columns"]
) -> Float[Tensor, "t d_out"]:
    """Each slice of x through its own block, in differentiable steps; under autocast both are cast."""
    return torch.bmm(by_block(x, len(blocks)), blocks.transpose(1, 2)).transpose(0, 1).flatten(1)


def _add_product(
    total: Float[Tensor, "n t a"], left: Float[Tensor, "n t b"], right: Float[Tensor, "n b a"]
) -> None:
    torch.baddbmm(total, left, right, out=total)
