"""Work as one CUDA graph, which launches its hundreds of small kernels at once: training steps, decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Work = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
T = TypeVar("T")


def capture(work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """Capture `work` as a CUDA graph, which executes no kernels; return the graph and what `work` returned.

    Whatever `work` allocates once or compiles in its first calls must exist already.

    Raises:
        RuntimeError: `work` synchronizes with the device, or a second copy does not fit into memory.
    """
    graph = torch.cuda.CUDAGraph()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = work()
    except BaseException:
        # a failed capture would leave the generator waiting for the capture's end
        generator.graphsafe_set_state(before)
        raise
    return graph, outputs


class CapturedStep:
    """A function of one batch, captured once as a CUDA graph and then replayed on batches of the same shape.

    A replay copies its batch into static inputs and overwrites the static outputs of the replay before it.
    The random state advances from one replay to the next as it does from step to step.
    """

    def __init__(self, work: Work, inputs: Tensor, targets: Tensor) -> None:
        """Capture `work` as a CUDA graph; capture executes no kernels.

        Parameters must have no gradients (and have none afterwards), and whatever `work` allocates or
        compiles in its first calls must exist already.

        Raises:
            RuntimeError: `work` synchronizes with the device, or a second copy does not fit into memory.
        """
        self.inputs, self.targets = inputs.clone(), targets.clone()
        self.graph, self.outputs = capture(lambda: work(self.inputs, self.targets))

    def fits(self, inputs: Tensor, targets: Tensor) -> bool:
        """Return whether a batch has the captured shapes."""
        return inputs.shape == self.inputs.shape and targets.shape == self.targets.shape

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        self.graph.replay()
        return self.outputs
