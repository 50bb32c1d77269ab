"""Processing of long sequences in chunks of rows, so that memory does not grow quadratically."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

# Elements of the largest tensor of a chunk: on a CPU it should stay near the caches, an accelerator should be
# filled (on an H100 training took 2 to 24 times as long at 2^22 as at 2^27, which took 1 to 1.5 GiB).
CHUNK_ELEMENTS = {"cpu": 1 << 22, "accelerator": 1 << 27}


def row_chunks(rows: int, elements: int, device: torch.device) -> Iterator[slice]:
    """Yield slices of `rows`, each row of which has `elements` elements."""
    largest = CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "accelerator"]
    size = max(1, largest // max(1, elements))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return function(*arguments); its activations are recomputed in the backward pass."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
