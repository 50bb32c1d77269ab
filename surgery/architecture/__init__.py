"""Architectures: backbone, layout, rules and loop, with their costs and their picture."""

from surgery.architecture.architecture import Architecture
from surgery.architecture.layers import Layer
from surgery.architecture.reading import MAX_DELTA_RANK, MAX_LOOPS, check_fit, read_windows

__all__ = ["MAX_DELTA_RANK", "MAX_LOOPS", "Architecture", "Layer", "check_fit", "read_windows"]
