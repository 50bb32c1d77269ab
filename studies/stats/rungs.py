"""Positions of rungs in a training run."""

from __future__ import annotations


def step_at(share: float, steps: int) -> int:
    """Return the step, counted from 1, after which this share of a run is done."""
    return max(1, round(share * steps))
