"""Retrying with a smaller batch when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from studies.training.errors import TrainingFailed

Result = TypeVar("Result")


def retry_smaller(
    run: Callable[[int], Result], batch_size: int, free_memory: Callable[[], bool]
) -> tuple[Result, int]:
    """Run `run(batch_size)`, halving the batch size after each out-of-memory error.

    Args:
        run: computes a result with at most so many sequences at a time.
        batch_size: sequences of the first attempt.
        free_memory: called after a failure; returns True to retry at the same size.

    Returns:
        (result, batch size that fitted).

    Raises:
        TrainingFailed: a single sequence does not fit into memory.
    """
    while True:
        try:
            return run(batch_size), batch_size
        except torch.OutOfMemoryError as error:
            reason = str(error)
        # outside of `except`, since the error keeps all tensors of the failed attempt alive
        if free_memory():
            continue
        if batch_size == 1:
            raise TrainingFailed(f"a single sequence does not fit into memory: {reason}")
        batch_size //= 2
