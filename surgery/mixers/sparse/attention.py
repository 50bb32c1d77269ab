"""Inputs and results of sparse attention, which `masked` and `gathered` compute in two ways."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Heads(NamedTuple):
    """Queries of the new tokens, and keys and values of all tokens; h is a multiple of g."""

    q: Float[Tensor, "b h t d"]
    k: Float[Tensor, "b g s d"]
    v: Float[Tensor, "b g s d"]


class Attended(NamedTuple):
    """Attention output of the new tokens, and the loss of their index.

    Attributes:
        output: what each query attends to.
        kl: KL of the index in nats, summed over the real rows; 0 where it was not asked for.
    """

    output: Float[Tensor, "b h t d"]
    kl: Float[Tensor, ""]
