"""The best product of two thin matrices in place of a dense weight, in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.apply.fit import Fitted
from surgery.apply.importance import row_scale

# Share of the mean activation energy that is added to every direction. It only decides between directions
# that the text hardly has.
DAMPING = 1e-6


def fit_low_rank(
    weight: Float[Tensor, "d_out d_in"],
    moments: Float[Tensor, "d_in d_in"] | None,
    options: Mapping[str, Any],
    form: str = "full",
    importance: Float[Tensor, " d_out"] | None = None,
) -> Fitted:
    """Return the map of this rank with the least error of the outputs, E|R^1/2 (W x - B A x)|^2.

    This is the truncated SVD of R^1/2 W S with S S^T = E[x x^T] (SVD-LLM, arXiv 2403.07378, section 3.1).
    Its left singular vectors U are the principal directions of the weighted outputs, and
    U U^T R^1/2 W S S^-1 = U U^T R^1/2 W, so that neither S nor its inverse is needed: a text with fewer
    directions than the inputs have is no special case.

    Args:
        weight: the dense weight W.
        moments: second moments E[x x^T] of the inputs; None: the identity, for the plain SVD of the weight.
        options: options of the operator.
        form: unused: nothing here is nonlinear.
        importance: weights R of the squared errors of each output; None: ones.
    """
    rows = row_scale(weight, importance).double()
    target = rows[:, None] * weight.double()
    d_out, d_in = weight.shape
    basis = None
    if d_out > d_in:  # the outputs have d_in directions
        basis, target = torch.linalg.qr(target)
    metric = _metric(moments, target)
    directions = torch.linalg.eigh(target @ metric @ target.T).eigenvectors[:, -options["rank"] :].flip(1)
    encoder = directions.T @ target
    decoder = (directions if basis is None else basis @ directions) / rows[:, None]
    balance = (decoder.norm(dim=0) / encoder.norm(dim=1).clamp(min=1e-30)).sqrt()  # a pair's norms are equal
    encoder, decoder = balance[:, None] * encoder, decoder / balance
    parameters = {"encoder.weight": encoder.to(weight.dtype), "decoder.weight": decoder.to(weight.dtype)}
    return Fitted(parameters, (decoder @ encoder).to(weight.dtype), 1)


def _metric(moments: Tensor | None, target: Tensor) -> Tensor:
    """Return the damped second moments, of mean energy 1; the identity if they say nothing."""
    identity = torch.eye(target.shape[1], dtype=target.dtype, device=target.device)
    if moments is None:
        return identity
    moments = moments.double()
    mean = moments.diagonal().mean()
    return moments / mean + DAMPING * identity if float(mean) > 0 else identity
