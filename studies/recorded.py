"""Forward and backward passes as one CUDA graph: their hundreds of small kernels are launched at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Gradients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Recording:
    """`work` on batches of one shape, recorded once and then replayed.

    A replay reads its batch from memory of its own, and leaves gradients and what `work` returned where the
    recording has put them, over those of the replay before. Random numbers go on from one replay to the next
    as they would from step to step.
    """

    def __init__(
        self, work: Gradients, parameters: Iterable[nn.Parameter], inputs: Tensor, targets: Tensor
    ) -> None:
        """Records, which runs nothing. Parameters have no gradients yet, and everything that `work` makes at
        its first calls, code among it, is made.

        Raises:
            RuntimeError: it waits for the device, or memory does not hold it a second time.
        """
        self.inputs, self.targets = inputs.clone(), targets.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.found = work(self.inputs, self.targets)
        self.gradients = [(p, p.grad) for p in parameters if p.grad is not None]

    def fits(self, inputs: Tensor, targets: Tensor) -> bool:
        return inputs.shape == self.inputs.shape and targets.shape == self.targets.shape

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        self.graph.replay()
        return self.found
