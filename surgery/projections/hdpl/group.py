"""HDPL projections that share their input, run as one: one product for all encoders, one step for all
latents, then each output and its gradients without a pass over them that only copies or adds.

Kept for the backward pass are the input and the latents (tokens, 2 ranks), which their gradients may be
written over; noise made by a kernel and h are made once more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.projections.hdpl.kl import FORMS
from surgery.projections.hdpl.latent import draw, sample, sample_back
from surgery.projections.hdpl.paths import (
    block_diagonal,
    input_gradient,
    latent_gradients,
    outputs,
    weight_gradients,
)

# of each sibling: mu, logvar, blocks (n, rows, columns), decoder (d_out, rank), bias (d_out,) or none
Weights = tuple[nn.Linear, nn.Linear, Tensor, Tensor, Tensor | None]

GATHER_FROM = (
    64  # tokens in evaluation; for fewer, copying the encoders side by side costs more than it saves
)


def train(
    x: Float[Tensor, "t d_in"], siblings: Sequence[Weights], forms: Sequence[str]
) -> tuple[list[Float[Tensor, "t d_out"]], list[Float[Tensor, " rank"]]]:
    """(outputs, sums for `kl_loss`) of each sibling with noise; KL is summed only where a form is named."""
    mus, logvars, blocks, decoders, biases = zip(*siblings, strict=True)
    ranks = [decoder.shape[1] for decoder in decoders]
    encoders = (*mus, *logvars)
    side_by_side = [torch.cat([e.weight for e in encoders]), torch.cat([e.bias for e in encoders])]
    there = [vector for vector in biases if vector is not None]
    dtype = _working_dtype(x)
    weights = _cast_together([*side_by_side, *blocks, *decoders, *there], dtype)
    noise = draw(len(x), ranks, dtype, x.device)
    numbers = [FORMS[form] for form in forms]
    biased = [bias is not None for bias in biases]
    *outputs, sums = _Group.apply(x.to(dtype), noise, numbers, biased, *weights)
    return outputs, list(sums.split(ranks))


def evaluate(x: Float[Tensor, "t d_in"], siblings: Sequence[Weights]) -> list[Float[Tensor, "t d_out"]]:
    """Outputs of each sibling without noise: z = mu."""
    mus = [weights[0] for weights in siblings]
    few = len(x) < GATHER_FROM
    if len(mus) > 1 and not few:
        gathered = torch.cat([mu.weight for mu in mus]), torch.cat([mu.bias for mu in mus])
        latents = list(F.linear(x, *gathered).split([len(mu.bias) for mu in mus], dim=1))
    else:
        latents = [F.linear(x, mu.weight, mu.bias) for mu in mus]
    # autograd and the compiler see through the plain form, and sums in place pay for many tokens only
    plain = few or torch.is_grad_enabled() or torch.compiler.is_compiling()
    hs = [F.silu(mu) for mu in latents]
    _, _, blocks, decoders, biases = zip(*siblings, strict=True)
    if plain:
        return [
            block_diagonal(x, block) + F.linear(h, decoder, bias)
            for h, block, decoder, bias in zip(hs, blocks, decoders, biases, strict=True)
        ]
    dtype = _working_dtype(x)
    return outputs(
        x.to(dtype),
        [h.to(dtype) for h in hs],
        [block.to(dtype) for block in blocks],
        [decoder.to(dtype) for decoder in decoders],
        [None if bias is None else bias.to(dtype) for bias in biases],
    )


class _Group(torch.autograd.Function):
    """x, noise and, in one dtype with x, encoders' weight and bias, all blocks, all decoders, and the biases
    there are -> outputs and KL sums."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, noise: Tensor, forms: list[int], biased: list[bool], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        run = _forward_op if torch.compiler.is_compiling() else _forward
        *found, latents = run(x, noise, forms, biased, list(weights))
        ctx.save_for_backward(x, noise, latents, *weights[: 2 + 2 * len(forms)])
        ctx.forms, ctx.biased = forms, biased
        ctx.spent = False  # whether a backward pass has written over the latents
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, noise, latents, *weights = ctx.saved_tensors
        forms, biased, d_found = ctx.forms, ctx.biased, list(gradients)
        if torch.compiler.is_compiling():
            d_x, *d_weights = _backward_op(x, noise, latents, forms, biased, weights, d_found)
        else:
            if ctx.spent:
                latents = F.linear(x, weights[0], weights[1])
            ctx.spent = True
            d_x, *d_weights = _backward(x, noise, latents, forms, biased, weights, d_found, spend=True)
        return d_x, None, None, None, *d_weights


def _forward(
    x: Tensor, noise: Tensor, forms: list[int], biased: list[bool], weights: list[Tensor]
) -> list[Tensor]:
    """Outputs, KL sums, latents."""
    count = len(forms)
    blocks, decoders = weights[2 : 2 + count], weights[2 + count : 2 + 2 * count]
    biases = iter(weights[2 + 2 * count :])
    ranks = [decoder.shape[1] for decoder in decoders]
    latents = F.linear(x, weights[0], weights[1])
    h, sums = sample(latents, noise, ranks, forms)
    shifts = [next(biases) if with_bias else None for with_bias in biased]
    return [*outputs(x, h.split(ranks, dim=1), blocks, decoders, shifts), sums, latents]


def _backward(
    x: Tensor,
    noise: Tensor,
    latents: Tensor,
    forms: list[int],
    biased: list[bool],
    weights: list[Tensor],
    gradients: list[Tensor],
    spend: bool = False,
) -> list[Tensor]:
    """Gradients of x and of the weights, in the order of `_Group`. Latents that may be spent are written
    over."""
    count = len(forms)
    blocks, decoders = weights[2 : 2 + count], weights[2 + count :]
    ranks = [decoder.shape[1] for decoder in decoders]
    d_sums = gradients[-1]
    d_ys = [d_y.contiguous() for d_y in gradients[:-1]]
    d_h = latent_gradients(d_ys, decoders)
    d_latents, h, d_shift = sample_back(latents, noise, ranks, forms, d_h, d_sums, spend)
    d_blocks, d_decoders = weight_gradients(x, h.split(ranks, dim=1), d_ys, blocks)
    del d_h, h  # before there is a gradient of x
    d_biases = [d_y.sum(0) for d_y, with_bias in zip(d_ys, biased, strict=True) if with_bias]
    d_x = input_gradient(d_ys, blocks, d_latents, weights[0])
    return [d_x, d_latents.t() @ x, d_shift, *d_blocks, *d_decoders, *d_biases]


# Under torch.compile both are single operators: traced, the sums in place would turn into copies. The name
# is the module's own, since a checkpoint may bring a copy of this file.
_NAMESPACE = re.sub(r"\W", "_", __name__)
_forward_op = torch.library.custom_op(
    f"{_NAMESPACE}::forward",
    _forward,
    mutates_args=(),
    schema="(Tensor x, Tensor noise, int[] forms, bool[] biased, Tensor[] weights) -> Tensor[]",
)
_backward_op = torch.library.custom_op(
    f"{_NAMESPACE}::backward",
    _backward,
    mutates_args=(),
    schema="(Tensor x, Tensor noise, Tensor latents, int[] forms, bool[] biased, Tensor[] weights, "
    "Tensor[] gradients) -> Tensor[]",
)


@_forward_op.register_fake
def _(x: Tensor, noise: Tensor, forms: list[int], biased: list[bool], weights: list[Tensor]) -> list[Tensor]:
    decoders = weights[2 + len(forms) : 2 + 2 * len(forms)]
    width = sum(decoder.shape[1] for decoder in decoders)
    exact = torch.promote_types(x.dtype, torch.float32)
    return [
        *(x.new_empty(x.shape[0], len(decoder)) for decoder in decoders),
        x.new_empty(width, dtype=exact),
        x.new_empty(x.shape[0], 2 * width),
    ]


@_backward_op.register_fake
def _(
    x: Tensor,
    noise: Tensor,
    latents: Tensor,
    forms: list[int],
    biased: list[bool],
    weights: list[Tensor],
    gradients: list[Tensor],
) -> list[Tensor]:
    biases = [d_y.new_empty(d_y.shape[1]) for d_y, there in zip(gradients[:-1], biased, strict=True) if there]
    return [x.new_empty(x.shape), *(weight.new_empty(weight.shape) for weight in weights), *biases]


def _working_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


def _cast_together(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The tensors in another dtype by one copy of them all, where they aren't in it: a cast each would be
    dozens of tiny kernels."""
    if all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(dtype)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
