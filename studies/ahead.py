"""What a short run says of a longer one: its held-out loss, carried on along its own curve."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.objectives import Objective
from surgery.costs import AHEAD, AHEAD_TIMES


def end_loss(objectives: Sequence[Objective]) -> str:
    """The metric, in nats/token, that a study judges a finished run by."""
    return AHEAD if any(item.name == AHEAD for item in objectives) else "val_loss"


def carried_on(losses: Sequence[float], rungs: Sequence[float]) -> float | None:
    """`val_loss@4x` of a finished run: from T to 4 T tokens the loss falls by what it fell from T/4 to T.

    That is a straight line over the logarithm of the tokens, so there is nothing to fit. It is meant to rank:
    real curves flatten, so the loss itself is told too low, of all architectures alike. Those that learn late
    (loops above all) are behind at the end of a short run and ahead after a longer one; their slopes say so.

    Args:
        losses: held out, nats/token, one a rung.
        rungs: shares of the run, the last is 1.

    Returns:
        None where no rung is at a quarter of the run.
    """
    if 1 / AHEAD_TIMES not in rungs:
        return None
    return 2 * losses[-1] - losses[rungs.index(1 / AHEAD_TIMES)]
