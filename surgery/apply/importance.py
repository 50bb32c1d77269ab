"""Importance of the outputs of gate and up for the output of their feed-forward part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

GATED = ("gate", "up")  # projections whose outputs it weights
LEAST = 1e-3  # of an output, relative to the mean, so that none is left to chance


@torch.inference_mode()
def row_importance(
    inputs: Iterable[Float[Tensor, "_ dim"]], dense: Mapping[str, Float[Tensor, "_ _"]]
) -> dict[str, Float[Tensor, " ffn_dim"]]:
    """Return, for each output of gate and up, the mean squared change of down's output per squared error.

    To first order, errors e of gate and f of up change the output down(silu(g) u) by down(silu'(g) u e) and
    down(silu(g) f). Output i of gate counts E[(silu'(g_i) u_i)^2] |down_i|^2, that of up E[silu(g_i)^2]
    |down_i|^2: the diagonal of Gauss-Newton's matrix.

    Args:
        inputs: inputs of gate and up, some tokens at a time.
        dense: the original weights of gate, up and down.
    """
    columns = dense["down"].square().sum(0)
    total = {"gate": torch.zeros_like(columns), "up": torch.zeros_like(columns)}
    count = 0
    for x in inputs:
        gate, up = F.linear(x, dense["gate"]), F.linear(x, dense["up"])
        sigmoid, silu = gate.sigmoid(), F.silu(gate)
        total["gate"] += ((sigmoid + silu * (1 - sigmoid)) * up).square().sum(0)
        total["up"] += silu.square().sum(0)
        count += len(x)
    return {name: (sums * columns / count).clone() for name, sums in total.items()}


def row_scale(
    weight: Float[Tensor, "d_out d_in"], importance: Float[Tensor, " d_out"] | None
) -> Float[Tensor, " d_out"]:
    """Return the factors by which a weight's rows are multiplied, so that plain least squares weights them.

    Args:
        weight: the weight.
        importance: weights of the squared errors of each output; None, or all zero: ones.
    """
    if importance is None or not float(importance.mean()) > 0:
        return weight.new_ones(len(weight))
    return (importance / importance.mean()).clamp(min=LEAST).sqrt().to(weight.dtype)
