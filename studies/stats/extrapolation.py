"""What a short run says of a longer one: its held-out loss, carried on along its own curve."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.objectives import Objective
from surgery.architecture.costs import AHEAD


def end_loss(objectives: Sequence[Objective]) -> str:
    """The metric, in nats/token, that a study judges a finished run by."""
    return next((item.name for item in objectives if item.name in AHEAD), "val_loss")


def carried_on(losses: Sequence[float], rungs: Sequence[float]) -> dict[str, float]:
    """`val_loss@2x` and `val_loss@4x` of a finished run, as far as it has the rungs: the loss goes on to fall
    by as much as in the last doubling (2x) or fourfold (4x) of the tokens, a straight line over their
    logarithm. There is nothing to fit.

    It is meant to rank: real curves flatten, so that all are told too low. Those that learn late, loops above
    all, are behind at the end of a short run and ahead after a longer one; their slopes say so.

    Args:
        losses: held out, nats/token, one a rung.
        rungs: shares of the run, the last is 1; val_loss@Kx needs one at 1/K.
    """
    return {
        name: 2 * losses[-1] - losses[rungs.index(1 / times)]
        for name, times in AHEAD.items()
        if 1 / times in rungs
    }
