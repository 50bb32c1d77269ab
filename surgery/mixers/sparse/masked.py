"""Sparse attention as full attention under a mask, at quadratic cost but without gathering.

Faster than `gathered` if the sequence is not much longer than top_k.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from surgery.context import Context
from surgery.mixers.sparse.attention import Attended, Heads
from surgery.mixers.sparse.chunks import recomputed, row_chunks
from surgery.mixers.sparse.indexer import Index, index_kl
from surgery.mixers.sparse.rows_triton import fits_rows, rows_fused
from surgery.mixers.sparse.select import as_mask, real_rows, top_tokens, visible
from surgery.ops.attention import attend


def masked_attention(heads: Heads, index: Index, context: Context, top_k: int, *, with_kl: bool) -> Attended:
    """Attend from each query to its top_k tokens, under a mask over all of them."""
    q, k, v = heads
    everything = k.shape[2] <= top_k  # all tokens are selected
    chosen = kl = None
    if (with_kl or not everything) and _fits(index, q, k, context):
        chosen, kl = _by_rows(index, q, k, top_k, with_kl)
    elif not everything:
        chosen = _selected(index, context, top_k)
    if everything or chosen is None:
        output = attend(q, k, v, context)
    else:
        output = F.scaled_dot_product_attention(
            q, k, v, attn_mask=chosen[:, None], enable_gqa=q.shape[1] != k.shape[1]
        )
    if kl is not None:
        return Attended(output, kl)
    kl = index.weights.new_zeros(())
    if with_kl:
        queries, keys = q.detach(), k.detach()
        for rows in row_chunks(q.shape[2], q.shape[0] * q.shape[1] * k.shape[2], q.device):
            mask = visible(context, rows) if chosen is None else chosen[:, rows]
            kl = kl + recomputed(_kl, queries, keys, index, context, mask, rows)
    return Attended(output, kl)


def _fits(index: Index, q: Tensor, k: Tensor, context: Context) -> bool:
    """Return whether the kernels for whole rows apply: no cached tokens, no padding, supported inputs."""
    whole = context.seen == 0 and context.padding is None and q.shape[2] == k.shape[2]
    return whole and not torch.compiler.is_compiling() and fits_rows(index.q, q)


def _by_rows(
    index: Index, q: Tensor, k: Tensor, top_k: int, with_kl: bool
) -> tuple[Bool[Tensor, "b t s"], Float[Tensor, ""] | None]:
    """Compute the selection and the KL, summed over the rows (None without `with_kl`), with the kernels."""
    if not with_kl:
        with torch.no_grad():
            return rows_fused(*index, q, k, top_k, with_kl=False).chosen, None
    chosen, kl = _Rows.apply(*index, q.detach(), k.detach(), top_k)
    return chosen, kl


class _Rows(torch.autograd.Function):
    """Selection and KL of the index; since the KL is a scalar, the forward pass computes its gradients."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, weights: Tensor, keys: Tensor, q: Tensor, k: Tensor, top_k: int
    ) -> tuple[Tensor, Tensor]:
        rows = rows_fused(queries, weights, keys, q, k, top_k, with_kl=True)
        assert rows.kl is not None
        ctx.save_for_backward(rows.d_queries, rows.d_weights, rows.d_keys)
        ctx.mark_non_differentiable(rows.chosen)
        return rows.chosen, rows.kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, d_kl: Float[Tensor, ""]) -> Any:
        return *(d * d_kl.to(d.dtype) for d in ctx.saved_tensors), None, None, None


@torch.no_grad()
def _selected(index: Index, context: Context, top_k: int) -> Bool[Tensor, "b t s"]:
    length, total = index.q.shape[1], index.keys.shape[1]
    parts = []
    for rows in row_chunks(length, index.q.shape[0] * index.q.shape[2] * total, index.q.device):
        allowed = visible(context, rows)
        end = allowed.shape[-1]
        tokens, real = top_tokens(index.rows(rows).scores(end), allowed, min(top_k, end))
        parts.append(as_mask(tokens, real, total))
    return torch.cat(parts, dim=1)


def _kl(
    q: Tensor, k: Tensor, index: Index, context: Context, mask: Bool[Tensor, "#b t s"], rows: slice
) -> Float[Tensor, ""]:
    end = context.seen + rows.stop
    mask = mask[..., :end]
    target = _probabilities(q[:, :, rows], k[:, :, :end], mask)
    return index_kl(target, index.rows(rows).scores(end), mask, real_rows(context, rows))


@torch.no_grad()
def _probabilities(
    q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g s d"], mask: Bool[Tensor, "#b t s"]
) -> Float[Tensor, "b t s"]:
    """Return the attention probabilities, averaged over the heads."""
    grouped = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)
    logits = grouped @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits = logits.to(dtype).unflatten(2, (-1, q.shape[2])).flatten(1, 2)
    probabilities: Tensor = logits.masked_fill_(~mask[:, None], -torch.inf).softmax(-1)
    return probabilities.mean(1)
