"""Native Sparse Attention in the place of softmax attention: the same projections, and gates fitted to it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from surgery.mixers.nsa.sizes import BRANCHES
from surgery.mixers.transplant import Text, fit_output
from surgery.ops.attention import attend

LOWEST = 0.01  # gate; smaller ones would hardly learn
START = (LOWEST, 0.5, 0.5)  # gates without a text: attention, where all blocks are selected and in the window
RIDGE = 1e-2  # towards START, in units of the mean energy of a branch: two branches may be the same
SWEEPS = 50  # of coordinate descent in three dimensions


@torch.no_grad()
def transplant(new: Any, old: Any, text: Text) -> None:
    """Set the gates so that their branches sum up to full attention, then fit `o`, starting from the old one.

    Each head has the constant gates with the least squared difference to full attention with the same
    projections. Without a text the window and the selected blocks share it equally, and the old `o` stays.
    """
    new.gate.weight.zero_()
    new.gate.bias.copy_(_gates(new, text).logit().flatten())
    if text:
        fit_output(new, old, text, prior=old.o.weight)
        return
    new.o.load_state_dict(old.o.state_dict())


def _gates(new: Any, text: Text) -> Float[Tensor, "3 h"]:
    """Return the gates of every head: box-constrained least squares by coordinate descent."""
    start = torch.tensor(START, device=new.gate.bias.device)[:, None].repeat(
        1, len(new.gate.bias) // BRANCHES
    )
    if not text:
        return start
    products = []
    for x, context in text:
        q, k, v = new.attended(x, context)
        outputs = torch.stack((*new.branches(q, k, v, context), attend(q, k, v, context)))
        products.append(torch.einsum("ibhtd,jbhtd->hij", outputs, outputs))
    total = torch.stack(products).sum(0)
    gram, cross = total[:, :BRANCHES, :BRANCHES], total[:, :BRANCHES, BRANCHES]
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
    gates = start.T.clone()
    for _ in range(SWEEPS):
        for i in range(BRANCHES):
            others = (gram[:, i] * gates).sum(1) - gram[:, i, i] * gates[:, i]
            wanted = (cross[:, i] - others + ridge * START[i]) / (gram[:, i, i] + ridge)
            gates[:, i] = wanted.clamp(LOWEST, 1 - LOWEST)
    return gates.T
