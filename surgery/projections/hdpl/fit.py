"""Fitting an HDPL operator to the dense weight it replaces, weighted by the activations of its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.apply.fit import Fitted

DAMPING = 1e-2  # fraction of the mean activation energy added to every direction, for small samples
QUIET_LOGVAR = -8.0  # training starts with latent noise of std e^-4, for latents of std 1
MAX_STEPS = 40
TOLERANCE = 5e-4  # relative improvement per step below which fitting stops


def fit_hdpl(
    weight: Float[Tensor, "d_out d_in"],
    moments: Float[Tensor, "d_in d_in"] | None,
    options: Mapping[str, Any],
) -> Fitted:
    """Fit an HDPL operator to `weight` as blockdiag(B) + D A.

    The latent is nonlinear, but silu(a) - silu(-a) = a: with mu = [A; -A] and decoder [D, -D] the operator
    is exactly linear in evaluation, at half its rank. With an odd rank the last latent is unused.

    Minimises ||(W - blockdiag(B) - D A) C^1/2|| by alternating the exact least-squares solution for the
    blocks with a power iteration for the low-rank part. Neither can increase the error.

    Args:
        weight: the dense weight W.
        moments: second moments C of the inputs; None: the identity.
        options: options of the operator.
    """
    rank, (d_out, d_in) = options["rank"], weight.shape
    root = _root(moments, weight)
    blocks, decoder, encoder, steps = _alternate(weight, root, options["blocks"], rank // 2)
    if moments is not None:  # latents of unit variance, so that the noise of training is relatively small
        scale = moments.diagonal().mean().clamp(min=1e-30).sqrt().to(weight.dtype)
        encoder, decoder = encoder / scale, decoder * scale
    half = len(encoder)
    mu = weight.new_zeros(rank, d_in)
    mu[:half], mu[half : 2 * half] = encoder, -encoder
    out = weight.new_zeros(d_out, rank)
    out[:, :half], out[:, half : 2 * half] = decoder, -decoder
    parameters = {
        "blocks": blocks,
        "mu.weight": mu,
        "mu.bias": weight.new_zeros(rank),
        "logvar.weight": weight.new_zeros(rank, d_in),
        "logvar.bias": weight.new_full((rank,), QUIET_LOGVAR),
        "decoder.weight": out,
    }
    return Fitted(parameters, torch.block_diag(*blocks) + decoder @ encoder, steps)


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
