"""Extrapolation of a finished run to longer training: a straight line along its own loss curve."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.objectives import Objective
from surgery.architecture.metrics import AHEAD


def end_loss(objectives: Sequence[Objective]) -> str:
    """Return the name of the metric, in nats/token, that a study judges a finished run by."""
    judges = (item.name for item in objectives if item.name in AHEAD or item.name == "kl")
    return next(judges, "val_loss")


def extrapolated_losses(losses: Sequence[float], rungs: Sequence[float]) -> dict[str, float]:
    """Return `val_loss@2x` and `val_loss@4x` of a finished run, as far as it has the rungs.

    The loss is assumed to fall by as much again as in the last doubling (2x) or fourfold (4x) of the tokens:
    a straight line over the logarithm of the tokens, with nothing to fit.

    The values are meant for ranking: real curves flatten, so that all are too low. Architectures that learn
    late, above all loops, are worse at the end of a short run and better after a longer one, as their slopes
    show.

    Args:
        losses: held-out losses in nats/token, one per rung.
        rungs: shares of the run, the last is 1; val_loss@Kx needs one at 1/K.
    """
    return {
        name: 2 * losses[-1] - losses[rungs.index(1 / times)]
        for name, times in AHEAD.items()
        if 1 / times in rungs
    }
