"""Lower bound on the memory of training, and the memory of this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from surgery.config.quantities import format_bytes, format_count

BYTES_PER_PARAMETER = 16  # float32: the weight, its gradient, and two averages of AdamW
LARGEST_DEVICE = 2**40  # bytes; a model is trained on one device, and no device has more

# memory limits of a container: cgroups version 2, then version 1
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def training_bytes(params: int) -> int:
    """Return the bytes of weights, gradients and optimizer state, without activations."""
    return params * BYTES_PER_PARAMETER


def machine_memory() -> int:
    """Return the bytes of memory that this machine has, or that its container may use."""
    size: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # no such control group, or "max"
            size = min(size, int(path.read_text(encoding="ascii")))
    return size


def describe_training(params: int) -> str:
    """Return a phrase for messages: the number of parameters, and the bytes to train them."""
    return (
        f"has {format_count(params)} parameters and takes {format_bytes(training_bytes(params))} to train "
        f"({BYTES_PER_PARAMETER} bytes per parameter, before activations)"
    )
