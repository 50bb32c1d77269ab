"""What a short run says of a longer one: its held-out loss, carried on along its own curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search_spaces.objectives import Objective
from surgery.costs import AHEAD, AHEAD_FROM, AHEAD_TIMES


def end_loss(objectives: Sequence[Objective]) -> str:
    """The metric, in nats/token, that a study judges a finished run by."""
    return AHEAD if any(item.name == AHEAD for item in objectives) else "val_loss"


def carried_on(losses: Sequence[float], rungs: Sequence[float]) -> float | None:
    """`val_loss@4x` of a finished run: a line over the logarithm of the tokens, through its losses at
    AHEAD_FROM and at the end, followed to AHEAD_TIMES the tokens. There is nothing to fit.

    It is meant to rank: real curves flatten, so that all are told too low. Those that learn late, loops above
    all, are behind at the end of a short run and ahead after a longer one; their slopes say so.

    Args:
        losses: held out, nats/token, one a rung.
        rungs: shares of the run, the last is 1.

    Returns:
        None where no rung is at AHEAD_FROM.
    """
    if AHEAD_FROM not in rungs:
        return None
    fall = losses[rungs.index(AHEAD_FROM)] - losses[-1]
    return losses[-1] - fall * math.log(AHEAD_TIMES) / -math.log(AHEAD_FROM)
