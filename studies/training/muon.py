"""Muon: momentum whose matrices are orthogonalised, for learning rates and weight decays of AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# of the quintic iteration, and how often it runs: Keller Jordan's (kellerjordan.github.io/posts/muon)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPS = 1e-7  # least norm that a matrix is divided by
RMS = 0.2  # of an update of rate 1, about that of AdamW's (Moonlight, arXiv 2502.16982, section 2.2)
MOST_ELEMENTS = 2**25  # of the matrices that are orthogonalised together, which takes copies of them


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum and decoupled weight decay.

    A parameter (..., out, in) is a matrix or a batch of matrices, each of which is orthogonalised alone. Its
    update is `lr * RMS * sqrt(max(out, in))` times the orthogonalised momentum, so that entries of an update
    have the root mean square `lr * RMS` whatever the shape. `torch.optim.Muon` with "match_rms_adamw" does
    the same for single matrices, but reads the learning rate on the host, so that it can't be captured as a
    CUDA graph. Here a group's `lr` is a number or a tensor on the device. Momenta have the parameters' dtype;
    matrices are orthogonalised in bfloat16 on CUDA, in the parameters' dtype elsewhere.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        """Prepare to train parameters of at least two dimensions, or groups of them."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        assert all(p.ndim >= 2 for group in self.param_groups for p in group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have gradients; there is no use for a closure."""
        assert closure is None
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not params:
                continue
            gradients = [parameter.grad for parameter in params]
            averages = [self._average(parameter) for parameter in params]
            lr, momentum = group["lr"], group["momentum"]
            torch._foreach_lerp_(averages, gradients, 1 - momentum)
            ahead = torch._foreach_lerp(gradients, averages, momentum)
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
            for indices in _batches([parameter.shape for parameter in params]):
                steps = _together([ahead[index] for index in indices], lr)
                torch._foreach_sub_([params[index] for index in indices], steps)

    def _average(self, parameter: Tensor) -> Tensor:
        """Return the moving average of a parameter's gradients."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        return average


def orthogonalised(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Return, for each matrix U S V^T, about U V^T by Newton-Schulz iterations in the matrices' dtype.

    Singular values end between 0.68 and 1.21 if they were more than 0.002 of the matrix's Frobenius norm, and
    smaller ones below. A matrix of zeros stays one.

    Args:
        matrices: with no more rows than columns, or the products are larger than they have to be.
    """
    a, b, c = COEFFICIENTS
    x: Tensor = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


def _batches(shapes: Sequence[torch.Size]) -> Iterator[list[int]]:
    """Yield the indices of matrices that have the same two sides, at most MOST_ELEMENTS of them together."""
    same_sides: dict[tuple[int, int], list[int]] = {}
    for index, shape in enumerate(shapes):
        same_sides.setdefault((min(shape[-2:]), max(shape[-2:])), []).append(index)
    for indices in same_sides.values():
        batch: list[int] = []
        elements = 0
        for index in indices:
            elements += shapes[index].numel()
            if batch and elements > MOST_ELEMENTS:
                yield batch
                batch, elements = [], shapes[index].numel()
            batch.append(index)
        yield batch


def _together(ahead: Sequence[Tensor], lr: float | Tensor) -> list[Tensor]:
    """Return what to subtract from parameters whose matrices have the same two sides."""
    lying = [tensor if tensor.shape[-2] <= tensor.shape[-1] else tensor.mT for tensor in ahead]
    joined = torch.cat([tensor.reshape(-1, *tensor.shape[-2:]) for tensor in lying])
    dtype = torch.bfloat16 if joined.is_cuda else joined.dtype
    moves = orthogonalised(joined.to(dtype)).to(joined.dtype) * (lr * RMS * math.sqrt(joined.shape[-1]))
    parts = moves.split([tensor.shape[:-2].numel() for tensor in ahead])
    return [
        (part if tensor is flat else part.mT).reshape(tensor.shape).contiguous()
        for part, tensor, flat in zip(parts, ahead, lying, strict=True)
    ]
