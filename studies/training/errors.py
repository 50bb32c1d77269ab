"""Training errors that a user sees."""

from __future__ import annotations


class TrainingFailed(Exception):
    """The run has no result, such as after a loss that became NaN or infinite, or that exploded."""
