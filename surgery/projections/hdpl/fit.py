"""Fitting an HDPL operator to the dense weight it replaces, weighted by the activations of its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.apply.fit import FORMS, Fitted

DAMPING = 1e-2  # fraction of the mean activation energy added to every direction, for small samples
QUIET_LOGVAR = -8.0  # training starts with latent noise of std e^-4, for latents of std about 1
LEAST_IMPORTANCE = 1e-3  # of an output, relative to the mean, so that none is left to chance
MAX_STEPS = 40
TOLERANCE = 5e-4  # relative improvement per step below which fitting stops

# silu'' is zero at INFLECTION: silu(INFLECTION + u) = silu(INFLECTION) + SLOPE u + O(u^3).
INFLECTION = 2.399357280515467
SLOPE = 1.099839320128867
# RMS of u. On layer 12 of SmolLM2-135M, rank 128, the output errors are 0.5 % larger than those of the linear
# map; at 0.4 none and at 1.4 4 % are due to curvature. Smaller latents are lost in the rounding of bfloat16.
LATENT_RMS = 0.8


def fit_hdpl(
    weight: Float[Tensor, "d_out d_in"],
    moments: Float[Tensor, "d_in d_in"] | None,
    options: Mapping[str, Any],
    form: str = "full",
    importance: Float[Tensor, " d_out"] | None = None,
) -> Fitted:
    """Fit an HDPL operator to `weight` as blockdiag(B) + D A.

    Minimises ||R^1/2 (W - blockdiag(B) - D A) C^1/2|| by alternating the exact least-squares solution for the
    blocks with a power iteration for the low-rank part. Neither can increase the error. The nonlinear latent
    carries D A in one of two ways:

    `full`: at silu's point of inflection, where it is linear up to the third order. One latent is a constant,
    which cancels the others' constant outputs; the rest carry a map of rank - 1.

    `paired`: mu = [A; -A] and decoder [D, -D]. Since silu(a) - silu(-a) = a, this is exact for inputs of any
    size, at half the rank. An odd latent is unused.

    Args:
        weight: the dense weight W.
        moments: second moments C of the inputs; None: the identity, and `paired`, since `full` needs to know
            the size of the inputs.
        options: options of the operator.
        form: `full` or `paired`.
        importance: weights R of the squared errors of each output; None: ones.
    """
    assert form in FORMS, form
    root = _root(moments, weight)
    full = form == "full" and root is not None
    rank = options["rank"]
    usable = rank - 1 if full else rank // 2
    rows = _row_scale(weight, importance)
    blocks, decoder, encoder, steps = _alternate(rows[:, None] * weight, root, options["blocks"], usable)
    blocks, decoder = blocks / rows.view(*blocks.shape[:2], 1), decoder / rows[:, None]
    fitted = torch.block_diag(*blocks) + decoder @ encoder
    if moments is not None:  # latents of unit variance
        scale = moments.diagonal().mean().clamp(min=1e-30).sqrt().to(weight.dtype)
        encoder, decoder = encoder / scale, decoder * scale
    mu, bias, out = (_at_inflection if full else _in_pairs)(encoder, decoder, rank)
    parameters = {
        "blocks": blocks,
        "mu.weight": mu,
        "mu.bias": bias,
        "logvar.weight": torch.zeros_like(mu),
        "logvar.bias": weight.new_full((rank,), QUIET_LOGVAR),
        "decoder.weight": out,
    }
    return Fitted(parameters, fitted, steps)


def _at_inflection(encoder: Tensor, decoder: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight and bias of mu and the decoder for latents of unit RMS that are nearly linear."""
    count = len(encoder)
    mu = encoder.new_zeros(rank, encoder.shape[1])
    out = decoder.new_zeros(len(decoder), rank)
    mu[:count] = LATENT_RMS * encoder
    out[:, :count] = decoder / (LATENT_RMS * SLOPE)
    out[:, -1] = -out[:, :count].sum(1)
    return mu, encoder.new_full((rank,), INFLECTION), out


def _in_pairs(encoder: Tensor, decoder: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight and bias of mu and the decoder for latents that are exactly linear in pairs."""
    half = len(encoder)
    mu = encoder.new_zeros(rank, encoder.shape[1])
    mu[:half], mu[half : 2 * half] = encoder, -encoder
    out = decoder.new_zeros(len(decoder), rank)
    out[:, :half], out[:, half : 2 * half] = decoder, -decoder
    return mu, encoder.new_zeros(rank), out


def _row_scale(weight: Tensor, importance: Tensor | None) -> Tensor:
    """Return the factors (d_out,) by which rows are multiplied, so that plain least squares weights them."""
    if importance is None or not float(importance.mean()) > 0:
        return weight.new_ones(len(weight))
    return (importance / importance.mean()).clamp(min=LEAST_IMPORTANCE).sqrt().to(weight.dtype)


def _root(moments: Tensor | None, weight: Tensor) -> Tensor | None:
    """Return the lower triangular L with L L^T = C + damping, scaled to unit mean energy."""
    if moments is None:
        return None
    moments = moments.double()
    mean = moments.diagonal().mean()
    if not float(mean) > 0:
        return None
    damped = moments / mean + DAMPING * torch.eye(len(moments), dtype=torch.float64, device=moments.device)
    root: Tensor = torch.linalg.cholesky(damped).to(weight.dtype)
    return root


def _alternate(
    weight: Tensor, root: Tensor | None, count: int, half: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Alternate between blocks and low-rank part in the whitened space W L.

    Returns:
        (blocks, decoder (d_out, half), encoder (half, d_in), number of steps)
    """
    d_out, d_in = weight.shape
    rows, columns = d_out // count, d_in // count
    target = weight if root is None else weight @ root
    half = min(half, d_out, d_in)
    # each block's inputs as rows of L: the span of the block in the whitened space
    inputs = (torch.eye(d_in, dtype=weight.dtype, device=weight.device) if root is None else root).view(
        count, columns, d_in
    )
    gram = torch.linalg.cholesky(inputs @ inputs.transpose(1, 2))
    directions = _start(target, half)
    low_rank = torch.zeros_like(target)
    blocks = weight.new_zeros(count, rows, columns)
    scale = float(target.square().sum())
    error, steps = float("inf"), 0
    while steps < MAX_STEPS:
        steps += 1
        residual = (target - low_rank).view(count, rows, d_in)
        blocks = torch.cholesky_solve(inputs @ residual.transpose(1, 2), gram).transpose(1, 2)
        rest = target - (blocks @ inputs).reshape(d_out, d_in)
        if half:
            directions = torch.linalg.qr(rest.T @ (rest @ directions)).Q
            low_rank = (rest @ directions) @ directions.T
        now = float((rest - low_rank).square().sum())
        if half == 0 or now <= 1e-12 * scale or now > error * (1 - TOLERANCE):
            break
        error = now
    decoder = rest @ directions
    encoder = directions.T
    if root is not None:  # A = V^T L^-1
        encoder = torch.linalg.solve_triangular(root, encoder, upper=False, left=False)
    return blocks, decoder, encoder, steps


def _start(target: Tensor, half: int) -> Tensor:
    """Return deterministic orthonormal initial directions (d_in, half)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(target.shape[0], half, generator=generator, dtype=target.dtype).to(target.device)
    start: Tensor = torch.linalg.qr(target.T @ noise).Q
    return start
