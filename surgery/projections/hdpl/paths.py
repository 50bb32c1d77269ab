"""The two paths to a projection's output, y = BlockDiag(x) + D h (+ b), without intermediate tensors.

The slices of x, y and their gradients that belong to blocks are strided views (blocks, tokens, width) of
(tokens, d): batched products read from and accumulate into these views.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.projections.hdpl.back_triton import (
    back_fused,
    fits_blocks,
    fits_decoders,
    through_blocks_fused,
)
from surgery.projections.hdpl.kl import Terms
from surgery.projections.hdpl.latent import sample_back
from surgery.projections.hdpl.outputs_triton import outputs_fused
from surgery.projections.hdpl.tiles import concat_into, fits_tiles
from surgery.projections.hdpl.weights_triton import fits_weights, weight_gradients_fused


def by_block(x: Float[Tensor, "t d"], blocks: int) -> Float[Tensor, "{blocks} t d//{blocks}"]:
    """Return a view of the slices of each block."""
    slices: Tensor = x.unflatten(1, (blocks, -1)).transpose(0, 1)
    return slices


def outputs(
    x: Float[Tensor, "t d_in"],
    hs: Sequence[Float[Tensor, "t _"]],
    blocks: Sequence[Float[Tensor, "_ _ _"]],
    decoders: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"] | None],
) -> list[Float[Tensor, "t _"]]:
    """Return y of all siblings. All tensors have the same dtype; `hs` are column slices of one tensor."""
    if fits_tiles(x, blocks, [h.shape[1] for h in hs]):
        return outputs_fused(x, hs, blocks, decoders, biases)
    return [output_plainly(x, *weights) for weights in zip(hs, blocks, decoders, biases, strict=True)]


def output_plainly(
    x: Float[Tensor, "t d_in"],
    h: Float[Tensor, "t rank"],
    blocks: Float[Tensor, "n rows columns"],
    decoder: Float[Tensor, "d_out rank"],
    bias: Float[Tensor, " d_out"] | None,
) -> Float[Tensor, "t d_out"]:
    """Compute one of `outputs` in plain torch."""
    y = torch.nn.functional.linear(h, decoder, bias)
    _add_product(by_block(y, len(blocks)), by_block(x, len(blocks)), blocks.transpose(1, 2))
    return y


def back(
    d_ys: Sequence[Float[Tensor, "t _"]],
    blocks: Sequence[Float[Tensor, "_ _ _"]],
    decoders: Sequence[Float[Tensor, "_ _"]],
    latents: Float[Tensor, "t latents"],
    noise: Tensor,
    terms: Terms,
    d_loss: Float[Tensor, ""],
    d_penalty: Float[Tensor, " latents//2"],
    inplace: bool,
) -> tuple[
    Float[Tensor, "t latents"],
    Float[Tensor, "t latents//2"],
    Float[Tensor, "parts latents"],
    Float[Tensor, "t d_in"],
]:
    """Return (the results of `sample_back`, the gradient of x through the blocks alone)."""
    ranks = [decoder.shape[1] for decoder in decoders]
    if noise.dtype == torch.int64 and _kernel_for_blocks(d_ys, blocks, ranks) and fits_decoders(ranks):
        return back_fused(d_ys, blocks, decoders, latents, noise, terms, d_loss, d_penalty, inplace)
    d_h = latent_gradients(d_ys, decoders)
    gradients = sample_back(latents, noise, ranks, terms, d_h, d_loss, d_penalty, inplace)
    return *gradients, through_blocks(d_ys, blocks)


def latent_gradients(
    d_ys: Sequence[Float[Tensor, "t _"]], decoders: Sequence[Float[Tensor, "_ _"]]
) -> Float[Tensor, "t ranks"]:
    """Return the concatenated gradients of all siblings' h."""
    ranks = [decoder.shape[1] for decoder in decoders]
    d_h = d_ys[0].new_empty(len(d_ys[0]), sum(ranks))
    for d_y, decoder, part in zip(d_ys, decoders, d_h.split(ranks, dim=1), strict=True):
        torch.mm(d_y, decoder, out=part)
    return d_h


def through_blocks(
    d_ys: Sequence[Float[Tensor, "t _"]], blocks: Sequence[Float[Tensor, "_ _ _"]]
) -> Float[Tensor, "t d_in"]:
    """Return the gradient of x through all siblings' blocks."""
    if _kernel_for_blocks(d_ys, blocks):
        return through_blocks_fused(d_ys, blocks)
    return through_blocks_plainly(d_ys, blocks)


def _kernel_for_blocks(d_ys: Sequence[Tensor], blocks: Sequence[Tensor], ranks: Sequence[int] = ()) -> bool:
    return fits_tiles(d_ys[0], blocks, ranks) and fits_blocks(blocks)


def through_blocks_plainly(
    d_ys: Sequence[Float[Tensor, "t _"]], blocks: Sequence[Float[Tensor, "_ _ _"]]
) -> Float[Tensor, "t d_in"]:
    """Compute `through_blocks` in plain torch."""
    d_x = d_ys[0].new_empty(len(d_ys[0]), blocks[0].shape[0] * blocks[0].shape[2])
    for index, (d_y, block) in enumerate(zip(d_ys, blocks, strict=True)):
        _add_product(by_block(d_x, len(block)), by_block(d_y, len(block)), block, first=index == 0)
    return d_x


def weight_gradients(
    x: Float[Tensor, "t d_in"],
    hs: Sequence[Float[Tensor, "t _"]],
    d_ys: Sequence[Float[Tensor, "t _"]],
    blocks: Sequence[Float[Tensor, "_ _ _"]],
    d_bias_parts: Float[Tensor, "parts latents"],
    out: Float[Tensor, " elements"],
) -> None:
    """Write the gradients of all encoder biases, blocks and decoders into the vector `out`.

    `d_bias_parts` is the gradient of the encoder biases, summed over parts of the tokens.
    """
    if fits_tiles(x, blocks, [h.shape[1] for h in hs]) and fits_weights(blocks):
        weight_gradients_fused(x, hs, d_ys, blocks, d_bias_parts, out)
        return
    d_blocks, d_decoders = weight_gradients_plainly(x, hs, d_ys, blocks)
    concat_into([d_bias_parts.sum(0).to(out.dtype), *d_blocks, *d_decoders], out)


def weight_gradients_plainly(
    x: Float[Tensor, "t d_in"],
    hs: Sequence[Float[Tensor, "t _"]],
    d_ys: Sequence[Float[Tensor, "t _"]],
    blocks: Sequence[Float[Tensor, "_ _ _"]],
) -> tuple[list[Float[Tensor, "_ _ _"]], list[Float[Tensor, "_ _"]]]:
    """Return (gradients of the blocks, of the decoders), computed in plain torch."""
    d_blocks = [
        torch.bmm(by_block(d_y, len(block)).transpose(1, 2), by_block(x, len(block)))
        for d_y, block in zip(d_ys, blocks, strict=True)
    ]
    return d_blocks, [d_y.t() @ h for d_y, h in zip(d_ys, hs, strict=True)]


def block_diagonal(
    x: Float[Tensor, "t d_in"], blocks: Float[Tensor, "n rows columns"]
) -> Float[Tensor, "t n*rows"]:
    """Multiply each slice of x by its own block, in differentiable steps; autocast applies to both."""
    return torch.bmm(by_block(x, len(blocks)), blocks.transpose(1, 2)).transpose(0, 1).flatten(1)


def _add_product(
    total: Float[Tensor, "n t a"],
    left: Float[Tensor, "n t b"],
    right: Float[Tensor, "n b a"],
    first: bool = False,
) -> None:
    """Add left @ right to `total`; `first`: overwrite it instead."""
    torch.baddbmm(total, left, right, beta=0 if first else 1, out=total)
