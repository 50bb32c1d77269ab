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
LEAST = 1e-3  # norm of an encoder's vector, relative to the largest, below which it counts as this


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
    vectors = torch.linalg.eigh(_output_moments(target, moments)).eigenvectors  # by rising eigenvalue
    directions = vectors[:, -options["rank"] :]
    encoder = directions.T @ target
    decoder = (directions if basis is None else basis @ directions) / rows[:, None]
    balance = _balance(encoder, decoder)
    encoder, decoder = balance[:, None] * encoder, decoder / balance
    parameters = {"encoder.weight": encoder.to(weight.dtype), "decoder.weight": decoder.to(weight.dtype)}
    return Fitted(parameters, (decoder @ encoder).to(weight.dtype), 1)


def _balance(
    encoder: Float[Tensor, "rank d_in"], decoder: Float[Tensor, "d_out rank"]
) -> Float[Tensor, " rank"]:
    """Return the factors after which both vectors of a pair have equal norms, so that training moves both.

    Where the encoder's is nearly zero the decoder's is not, or neither would have a gradient.
    """
    sizes = encoder.norm(dim=1)
    sizes = sizes.clamp(min=LEAST * float(sizes.max()))
    factors: Tensor = (decoder.norm(dim=0) / torch.where(sizes > 0, sizes, 1)).sqrt()
    return factors


def _output_moments(
    target: Float[Tensor, "rows d_in"], moments: Float[Tensor, "d_in d_in"] | None
) -> Float[Tensor, "rows rows"]:
    """Return the second moments of the outputs, damped; those of white inputs if `moments` say nothing."""
    white = target @ target.T
    mean = float(moments.diagonal().mean()) if moments is not None else 0.0
    if moments is None or not mean > 0:
        return white
    return target @ (moments.double() / mean) @ target.T + DAMPING * white
