"""What a model is: backbone, layout, rules, loop; its costs and its picture."""

from surgery.architecture.architecture import MAX_LOOPS, Architecture, Layer, check_fit, read_windows

__all__ = ["MAX_LOOPS", "Architecture", "Layer", "check_fit", "read_windows"]
