"""HDPL projections that share their input, run as one: one product for all encoders, one step for all
latents, then each output and its gradients without a pass over them that only copies or adds.

Kept for the backward pass are the input and the latents (tokens, 2 ranks), which their gradients may be
written over; noise made by a kernel and h are made once more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.projections.hdpl.kl import FORMS, Terms
from surgery.projections.hdpl.latent import draw, sample, sample_plainly
from surgery.projections.hdpl.paths import (
    back,
    block_diagonal,
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
    encoders = [*mus, *logvars]
    others = [*blocks, *decoders, *(vector for vector in biases if vector is not None)]
    dtype = _working_dtype(x)
    parts = [e.weight for e in encoders], [e.bias for e in encoders], *([tensor] for tensor in others)
    # by one copy, since a copy or a cast of each would be dozens of tiny kernels
    flat = torch.cat([tensor.flatten() for part in parts for tensor in part]).to(dtype)
    shapes = [[sum(len(tensor) for tensor in part), *part[0].shape[1:]] for part in parts]
    noise = draw(len(x), [decoder.shape[1] for decoder in decoders], dtype, x.device)
    # compiled, a number that the operator takes would make code of its own for every weight
    scale = max(kl_weights) if torch.compiler.is_compiling() else 1.0
    terms = [FORMS[form] for form in forms], [1.0 if w == scale else w / scale for w in kl_weights]
    *outputs, loss = _Group.apply(
        x.to(dtype), noise, *terms, [bias is not None for bias in biases], shapes, flat
    )
    return outputs, loss if scale == 1.0 else scale * loss


def evaluate(x: Float[Tensor, "t d_in"], siblings: Sequence[Weights]) -> list[Float[Tensor, "t d_out"]]:
    """Outputs of each sibling without noise: z = mu."""
    mus, _, blocks, decoders, biases = zip(*siblings, strict=True)
    few = len(x) < GATHER_FROM
    if len(mus) > 1 and not few:
        gathered = torch.cat([mu.weight for mu in mus]), torch.cat([mu.bias for mu in mus])
        hs = list(F.silu(F.linear(x, *gathered)).split([len(mu.bias) for mu in mus], dim=1))
    else:
        hs = [F.silu(F.linear(x, mu.weight, mu.bias)) for mu in mus]
    # autograd and the compiler see through the plain form, and sums in place pay for many tokens only
    if few or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return [
            block_diagonal(x, block) + F.linear(h, decoder, bias)
            for h, block, decoder, bias in zip(hs, blocks, decoders, biases, strict=True)
        ]
    dtype = _working_dtype(x)
    return outputs(
        x.to(dtype),
        hs,
        [block.to(dtype) for block in blocks],
        [decoder.to(dtype) for decoder in decoders],
        [None if bias is None else bias.to(dtype) for bias in biases],
    )


def train_by_modules(
    x: Float[Tensor, "t d_in"],
    mu: nn.Module,
    logvar: nn.Module,
    blocks: Tensor,
    decoder: nn.Module,
    bias: Tensor | None,
    form: str,
    kl_weight: float,
) -> tuple[Float[Tensor, "t d_out"], Float[Tensor, ""]]:
    """`train` of a single projection by calls of its layers, in steps that autograd follows."""
    latents = torch.cat((mu(x), logvar(x)), dim=1)
    rank = latents.shape[1] // 2
    exact = torch.promote_types(latents.dtype, torch.float32)
    noise = torch.randn(len(x), rank, dtype=exact, device=x.device)
    h, loss, _ = sample_plainly(latents, noise, [rank], Terms([FORMS[form]], [kl_weight]))
    return _both_paths(x, h, blocks, decoder, bias), loss


def evaluate_by_modules(
    x: Float[Tensor, "t d_in"],
    mu: nn.Module,
    logvar: nn.Module,
    blocks: Tensor,
    decoder: nn.Module,
    bias: Tensor | None,
) -> Float[Tensor, "t d_out"]:
    """`evaluate` of a single projection by calls of its layers; `logvar` has no part in it."""
    return _both_paths(x, F.silu(mu(x)), blocks, decoder, bias)


def _both_paths(x: Tensor, h: Tensor, blocks: Tensor, decoder: nn.Module, bias: Tensor | None) -> Tensor:
    y: Tensor = block_diagonal(x, blocks) + decoder(h)
    return y if bias is None else y + bias


class _Group(torch.autograd.Function):
    """x, noise and, side by side in one dtype with x, encoders' weight and bias, all blocks, all decoders and
    the biases there are -> outputs and the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        noise: Tensor,
        forms: list[int],
        kl_weights: list[float],
        biased: list[bool],
        shapes: list[list[int]],
        flat: Tensor,
    ) -> tuple[Tensor, ...]:
        run = _forward_op if torch.compiler.is_compiling() else _forward
        parts = flat.split([math.prod(shape) for shape in shapes])
        weights = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        *found, latents, slopes = run(x, noise, forms, kl_weights, biased, weights)
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
        d_x, d_flat = found
        return d_x, None, None, None, None, None, d_flat


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
    """Gradients of x and of all weights, side by side as `_Group` has them. Latents that may be spent are
    written over."""
    count = len(forms)
    blocks, decoders = weights[2 : 2 + count], weights[2 + count :]
    ranks = [decoder.shape[1] for decoder in decoders]
    d_ys = [d_y.contiguous() for d_y in gradients[:-1]]
    of_biases = [d_y for d_y, with_bias in zip(d_ys, biased, strict=True) if with_bias]
    d_flat = x.new_empty(_size(weights, of_biases))
    d_encoders, d_others, *d_biases = d_flat.split(
        [weights[0].numel(), _size(weights[1:], []), *(d_y.shape[1] for d_y in of_biases)]
    )
    rest = Terms(forms, kl_weights), gradients[-1], slopes, spend
    d_latents, h, shifts, d_x = back(d_ys, blocks, decoders, latents, noise, *rest)
    d_x.addmm_(d_latents, weights[0])
    torch.mm(d_latents.t(), x, out=d_encoders.view_as(weights[0]))
    if spend:  # whoever holds the latents has no use for them any more
        d_latents.untyped_storage().resize_(0)
    weight_gradients(x, h.split(ranks, dim=1), d_ys, blocks, shifts, d_others)
    for d_y, d_bias in zip(of_biases, d_biases, strict=True):
        torch.sum(d_y, 0, out=d_bias)
    return [d_x, d_flat]


def _size(weights: Sequence[Tensor], of_biases: Sequence[Tensor]) -> int:
    """Elements of all weights, and of the biases of these outputs."""
    return sum(weight.numel() for weight in weights) + sum(d_y.shape[1] for d_y in of_biases)


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
    _backward,
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
    of_biases = [d_y for d_y, with_bias in zip(gradients[:-1], biased, strict=True) if with_bias]
    return [x.new_empty(x.shape), x.new_empty(_size(weights, of_biases))]


def _working_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype
