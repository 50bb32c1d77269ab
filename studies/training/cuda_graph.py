"""Training steps as one CUDA graph: their hundreds of small kernels are launched at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Work = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class Recording:
    """`work` on batches of one shape, recorded once and then replayed.

    A replay reads its batch from memory of its own, and leaves what `work` returned where the recording has
    put it, over that of the replay before. Random numbers go on from one replay to the next as they would
    from step to step.
    """

    def __init__(self, work: Work, inputs: Tensor, targets: Tensor) -> None:
        """Records, which runs nothing. Parameters have no gradients, before and after, and everything that
        `work` makes at its first calls, code among it, is made.

        Raises:
            RuntimeError: it waits for the device, or memory does not hold it a second time.
        """
        self.inputs, self.targets = inputs.clone(), targets.clone()
        self.graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        before = generator.clone_state()
        try:
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.found = work(self.inputs, self.targets)
        except BaseException:
            # a recording that broke off would leave it waiting for the end of the recording
            generator.graphsafe_set_state(before)
            raise

    def fits(self, inputs: Tensor, targets: Tensor) -> bool:
        return inputs.shape == self.inputs.shape and targets.shape == self.targets.shape

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        self.graph.replay()
        return self.found
