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

from surgery.projections.hdpl.kl import FORMS, Terms
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
    x: Float[Tensor, "t d_in"], siblings: Sequence[Weights], forms: Sequence[str], kl_weights: Sequence[float]
) -> tuple[list[Float[Tensor, "t d_out"]], Float[Tensor, ""]]:
    """(outputs of each sibling with noise, their weighted KL). A sibling without a form has none."""
    mus, logvars, blocks, decoders, biases = zip(*siblings, strict=True)
    there = [vector for vector in biases if vector is not None]
    encoders = (*mus, *logvars)
    parameters = [e.weight for e in encoders], [e.bias for e in encoders], [*blocks, *decoders, *there]
    dtype = _working_dtype(x)
    weights = _side_by_side(*parameters, dtype)
    noise = draw(len(x), [decoder.shape[1] for decoder in decoders], dtype, x.device)
    # compiled, a number that the operator takes would make code of its own for every weight
    scale = max(kl_weights) if torch.compiler.is_compiling() else 1.0
    terms = [FORMS[form] for form in forms], [1.0 if w == scale else w / scale for w in kl_weights]
    *outputs, loss = _Group.apply(x.to(dtype), noise, *terms, [bias is not None for bias in biases], *weights)
    return outputs, loss if scale == 1.0 else scale * loss


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
    there are -> outputs and the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        noise: Tensor,
        forms: list[int],
        kl_weights: list[float],
        biased: list[bool],
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        run = _forward_op if torch.compiler.is_compiling() else _forward
        *found, latents, slopes = run(x, noise, forms, kl_weights, biased, list(weights))
        ctx.save_for_backward(x, noise, latents, slopes, *weights[: 2 + 2 * len(forms)])
        ctx.settings = forms, kl_weights, biased
        ctx.spent = False  # whether a backward pass has written over the latents
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, noise, latents, slopes, *weights = ctx.saved_tensors
        forms, kl_weights, biased = ctx.settings
        rest = forms, kl_weights, biased, weights, list(gradients)
        if torch.compiler.is_compiling():
            found = _backward_op(x, noise, latents, slopes, *rest)
        else:
            if ctx.spent:
                latents = F.linear(x, weights[0], weights[1])
            ctx.spent = True
            found = _backward(x, noise, latents, slopes, *rest, spend=True)
        d_x, *d_weights = found
        return d_x, None, None, None, None, *d_weights


def _forward(
    x: Tensor,
    noise: Tensor,
    forms: list[int],
    kl_weights: list[float],
    biased: list[bool],
    weights: list[Tensor],
) -> list[Tensor]:
    """Outputs, loss, latents, and the loss's slopes."""
    count = len(forms)
    blocks, decoders = weights[2 : 2 + count], weights[2 + count : 2 + 2 * count]
    biases = iter(weights[2 + 2 * count :])
    ranks = [decoder.shape[1] for decoder in decoders]
    latents = F.linear(x, weights[0], weights[1])
    h, loss, slopes = sample(latents, noise, ranks, Terms(forms, kl_weights))
    shifts = [next(biases) if with_bias else None for with_bias in biased]
    return [*outputs(x, h.split(ranks, dim=1), blocks, decoders, shifts), loss, latents, slopes]


def _backward(
    x: Tensor,
    noise: Tensor,
    latents: Tensor,
    slopes: Tensor,
    forms: list[int],
    kl_weights: list[float],
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
    d_ys = [d_y.contiguous() for d_y in gradients[:-1]]
    d_h = latent_gradients(d_ys, decoders)
    terms = Terms(forms, kl_weights)
    d_latents, h, shifts = sample_back(latents, noise, ranks, terms, d_h, gradients[-1], slopes, spend)
    d_blocks, d_decoders, d_shift = weight_gradients(x, h.split(ranks, dim=1), d_ys, blocks, shifts)
    del d_h, h  # before there is a gradient of x
    d_biases = [d_y.sum(0) for d_y, with_bias in zip(d_ys, biased, strict=True) if with_bias]
    d_x = input_gradient(d_ys, blocks, d_latents, weights[0])
    return [d_x, d_latents.t() @ x, d_shift, *d_blocks, *d_decoders, *d_biases]


def _backward_apart(*arguments: Any) -> list[Tensor]:
    """`_backward` whose results share no memory, as operators must not."""
    found = _backward(*arguments)
    return [one.clone() if one.untyped_storage().nbytes() > one.nbytes else one for one in found]


# Under torch.compile both are single operators: traced, the sums in place would turn into copies. The name
# is the module's own, since a checkpoint may bring a copy of this file.
_NAMESPACE = re.sub(r"\W", "_", __name__)
_SETTINGS = "int[] forms, float[] kl_weights, bool[] biased, Tensor[] weights"
_forward_op = torch.library.custom_op(
    f"{_NAMESPACE}::forward",
    _forward,
    mutates_args=(),
    schema=f"(Tensor x, Tensor noise, {_SETTINGS}) -> Tensor[]",
)
_backward_op = torch.library.custom_op(
    f"{_NAMESPACE}::backward",
    _backward_apart,
    mutates_args=(),
    schema=f"(Tensor x, Tensor noise, Tensor latents, Tensor slopes, {_SETTINGS}, Tensor[] gradients) "
    "-> Tensor[]",
)


@_forward_op.register_fake
def _(
    x: Tensor,
    noise: Tensor,
    forms: list[int],
    kl_weights: list[float],
    biased: list[bool],
    weights: list[Tensor],
) -> list[Tensor]:
    decoders = weights[2 + len(forms) : 2 + 2 * len(forms)]
    width = sum(decoder.shape[1] for decoder in decoders)
    exact = torch.promote_types(x.dtype, torch.float32)
    return [
        *(x.new_empty(x.shape[0], len(decoder)) for decoder in decoders),
        x.new_empty((), dtype=exact),
        x.new_empty(x.shape[0], 2 * width),
        x.new_empty(width, dtype=exact),
    ]


@_backward_op.register_fake
def _(
    x: Tensor,
    noise: Tensor,
    latents: Tensor,
    slopes: Tensor,
    forms: list[int],
    kl_weights: list[float],
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


def _side_by_side(
    encoders: list[Tensor], shifts: list[Tensor], others: list[Tensor], dtype: torch.dtype
) -> list[Tensor]:
    """(all encoders' weights as one, all their biases as one, the others), by one copy of all that has to
    move: a cast or a copy each would be dozens of tiny kernels."""
    cast = any(tensor.dtype != dtype for tensor in (*encoders, *shifts, *others))
    moved = others if cast else []
    flat = torch.cat([tensor.flatten() for tensor in (*encoders, *shifts, *moved)]).to(dtype)
    sizes = [sum(tensor.numel() for tensor in part) for part in (encoders, shifts)]
    weight, bias, *parts = flat.split([*sizes, *(tensor.numel() for tensor in moved)])
    if cast:
        others = [part.view(tensor.shape) for part, tensor in zip(parts, moved, strict=True)]
    return [weight.view(-1, encoders[0].shape[1]), bias, *others]
