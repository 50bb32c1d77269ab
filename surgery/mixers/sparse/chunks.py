"""Work on long sequences in pieces of rows, so that memory does not grow with their square."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

# Numbers in the largest tensor of a piece: a CPU wants it near its caches, an accelerator wants to be filled
# (on an H100 training took 2 to 24 times as long at 2^22 as at 2^27, which held 1 to 1.5 GiB).
CHUNK_ELEMENTS = {"cpu": 1 << 22, "accelerator": 1 << 27}


def row_chunks(rows: int, elements: int, device: torch.device) -> Iterator[slice]:
    """Pieces of `rows`, where each row holds `elements` numbers."""
    largest = CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "accelerator"]
    size = max(1, largest // max(1, elements))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments); training keeps only the arguments, and computes it again for its gradient."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
