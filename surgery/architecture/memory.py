"""Lower bound on the memory of training, and the memory of this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from surgery.architecture.architecture import Architecture
from surgery.architecture.costs import params, params_nonembedding
from surgery.config.quantities import format_bytes, format_count

BYTES_PER_PARAMETER = 16  # float32: the weight, its gradient, and two averages of AdamW
BYTES_PER_AVERAGE = 4  # of which Muon, that trains the matrices of layers, keeps one
LARGEST_DEVICE = 2**40  # bytes; a model is trained on one device, and no device has more

# memory limits of a container: cgroups version 2, then version 1
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def training_bytes(architecture: Architecture, optimizer: str = "adamw") -> int:
    """Return the bytes of weights, gradients and optimizer state, without activations.

    With Muon the few vectors of layers count as if they were its matrices, and what it computes in a step
    does not count.
    """
    saved = BYTES_PER_AVERAGE * params_nonembedding(architecture) if optimizer == "muon" else 0
    return BYTES_PER_PARAMETER * params(architecture) - saved


def machine_memory() -> int:
    """Return the bytes of memory that this machine has, or that its container may use."""
    size: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # no such control group, or "max"
            size = min(size, int(path.read_text(encoding="ascii")))
    return size


def describe_training(architecture: Architecture, optimizer: str = "adamw") -> str:
    """Return a phrase for messages: the number of parameters, and the bytes to train them."""
    count, needed = params(architecture), training_bytes(architecture, optimizer)
    return (
        f"has {format_count(count)} parameters and takes {format_bytes(needed)} to train "
        f"({needed / count:.3g} bytes per parameter, before activations)"
    )
