"""Architectures: backbone, layout, rules and loop, with their costs and their picture."""

from surgery.architecture.architecture import MAX_LOOPS, Architecture, Layer, check_fit, read_windows

__all__ = ["MAX_LOOPS", "Architecture", "Layer", "check_fit", "read_windows"]
