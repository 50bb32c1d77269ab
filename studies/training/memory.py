"""Retrying with a smaller batch when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from studies.training.errors import TrainingFailed

Found = TypeVar("Found")


def fitting(size: int, work: Callable[[int], Found], make_room: Callable[[], bool]) -> tuple[Found, int]:
    """(what `work` finds, of how many sequences at a time): of `size`, or of half as many, as often as it
    takes until they fit into memory. `make_room` clears up behind what did not; True: there is more room now.

    Raises:
        TrainingFailed: not even a single sequence fits.
    """
    while True:
        try:
            return work(size), size
        except torch.OutOfMemoryError as error:
            reason = str(error)
        # after `except`, since the error holds on to all that had been made
        if make_room():
            continue
        if size == 1:
            raise TrainingFailed(f"a single sequence does not fit into memory: {reason}")
        size //= 2
