"""Fitting an HDPL operator to the dense weight it replaces, weighted by the activations of its input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from surgery.apply.fit import FORMS, Fitted
from surgery.apply.importance import row_scale

DAMPING = 1e-2  # fraction of the mean activation energy added to every direction, for small samples
QUIET = 2e-2  # std of the latents' noise at the start of training, relative to their RMS
MAX_STEPS = 40
TOLERANCE = 5e-4  # relative improvement per step below which fitting stops

# RMS of the latents of the form `full`. At rank 128 on layer 12 of SmolLM2-135M, silu's curvature then adds
# 0.4 % to gate's output error; at 0.1 it adds 1.6 %, at 0.2 6 %. AdamW learns as fast from latents of 0.05 as
# from 0.1, and more slowly from larger ones (docs/papers.md, HDPL: fitting a dense matrix).
SMALL = 0.05


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

    `full`: near zero silu(z) = z / 2 + O(z^2), so that small latents mu = A x and the decoder 2 D carry it.

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
    usable = rank if full else rank // 2
    rows = row_scale(weight, importance)
    blocks, decoder, encoder, steps = _alternate(rows[:, None] * weight, root, options["blocks"], usable)
    blocks, decoder = blocks / rows.view(*blocks.shape[:2], 1), decoder / rows[:, None]
    fitted = torch.block_diag(*blocks) + decoder @ encoder
    if moments is not None:  # latents of unit variance
        scale = moments.diagonal().mean().clamp(min=1e-30).sqrt().to(weight.dtype)
        encoder, decoder = encoder / scale, decoder * scale
    size = SMALL if full else 1.0
    if full:
        mu, out = _padded(size * encoder, 2 / size * decoder, rank)
    else:
        mu, out = _padded(torch.cat([encoder, -encoder]), torch.cat([decoder, -decoder], dim=1), rank)
    parameters = {
        "blocks": blocks,
        "mu.weight": mu,
        "mu.bias": weight.new_zeros(rank),
        "logvar.weight": torch.zeros_like(mu),
        "logvar.bias": weight.new_full((rank,), 2 * math.log(QUIET * size)),
        "decoder.weight": out,
    }
    return Fitted(parameters, fitted, steps)


def _padded(encoder: Tensor, decoder: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return both with unused latents, which are zero, up to the rank."""
    unused = rank - len(encoder)
    return F.pad(encoder, (0, 0, 0, unused)), F.pad(decoder, (0, unused))


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
