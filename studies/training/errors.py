"""Errors of training that a user sees."""

from __future__ import annotations


class TrainingFailed(Exception):
    """The run has no result: the loss became NaN, infinite or exploded."""
