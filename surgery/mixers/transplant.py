"""Common parts of transplanters: the text that they see, and least squares for the output projection.

A transplanter starts a new mixer from the weights of the mixer that it replaces, so that its outputs on a
calibration text come near the old one's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from surgery.context import Context

# Inputs of a mixer (1, t, d), each with the context of its forward pass.
Text = Sequence[tuple[Float[Tensor, "1 _ d"], Context]]

# (new mixer, old mixer, text): sets the new one's parameters. The mixers are float32 with dense projections;
# the text may be empty.
Transplanter = Callable[[Any, Any, Text], None]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # tried for `fit_output`, in units of the mean energy of an input
WITHIN = 1.02  # times the smallest error that a stronger ridge may have
TOLERANCE = 1e-6  # of the targets' energy: rounding
DEFAULT_RIDGE = 1e-1  # of regressions that are not validated
LONGEST = 512  # tokens of a sequence whose attention is looked at
SMALL = 0.1  # rms of outputs for which silu is nearly linear
OPEN = 1.278  # silu(1.278) = 1
HELD_OUT = 4  # the last of so many parts of every sequence validates the ridge


@torch.no_grad()
def fit_output(
    new: Any,
    old: Any,
    text: Text,
    *,
    prior: Tensor | None = None,
    outputs: Sequence[Tensor] | None = None,
) -> float:
    """Set `new.o` to the ridge regression of the old mixer's outputs on the inputs of `new.o`.

    The ridge is the strongest one whose squared error, on tokens that are held out of the regression, is
    nearly the smallest, since other text differs more from the used tokens than these do. The weights are
    then computed from all tokens. Without a text, or if no ridge is better than a silent mixer, `o` is zero.

    Args:
        new: the mixer to fit, complete but for `o`.
        old: the mixer whose outputs are the target.
        text: inputs of both.
        prior: weight that a strong ridge also tends to, if that is better than zero.
        outputs: the old mixer's outputs, if they are known already.

    Returns:
        The error on the held-out tokens: RMS of the difference over RMS of the old outputs.
    """
    for parameter in new.o.parameters():
        parameter.zero_()
    if not text:
        return 1.0
    used, held = _moments(new, text, outputs or outputs_of(old, text))
    starts = [torch.zeros_like(used.cross)]
    if prior is not None:
        starts.append(torch.zeros_like(used.cross))
        starts[1][: prior.shape[1]] = prior.T.double()
        if new.o.bias is not None and old.o.bias is not None:
            starts[1][-1] = old.o.bias.double()
    tried = [
        (held.error(start if ridge is None else used.solve(ridge, start)), ridge, start)
        for start in starts
        for ridge in (*RIDGES, None)  # None: infinite
    ]
    nearly = WITHIN * min(error for error, _, _ in tried) + TOLERANCE * float(held.energy)
    error, ridge, start = max(
        (item for item in tried if item[0] <= nearly), key=lambda item: item[1] or float("inf")
    )
    weight = start if ridge is None else (used + held).solve(ridge, start)
    width = new.o.weight.shape[1]
    new.o.weight.copy_(weight[:width].T)
    if new.o.bias is not None:
        new.o.bias.copy_(weight[width])
    return math.sqrt(error / max(float(held.energy), 1e-30))


def output_error(new: nn.Module, old: nn.Module, text: Text) -> float | None:
    """Return RMS of the difference of two mixers' outputs over RMS of the old one's; None without a text."""
    difference, energy = 0.0, 0.0
    with torch.no_grad():
        for x, context in text:
            wanted = old(x, context)
            difference += float((new(x, context) - wanted).square().sum())
            energy += float(wanted.square().sum())
    return (difference / max(energy, 1e-30)) ** 0.5 if text else None


def solve_for(text: Text, targets: Sequence[Tensor]) -> Tensor:
    """Return the weight (outputs, d) of the ridge regression of `targets` (1, t, outputs) on the inputs."""
    sums = [Moments.of(x, target) for (x, _), target in zip(text, targets, strict=True)]
    total = sums[0]
    for item in sums[1:]:
        total = total + item
    return total.solve(DEFAULT_RIDGE, torch.zeros_like(total.cross)).T.float()


def outputs_of(mixer: nn.Module, text: Text) -> list[Tensor]:
    """Return the mixer's output for each sequence of the text."""
    return [mixer(x, context) for x, context in text]


def inputs_of(module: nn.Module, mixer: nn.Module, text: Text) -> list[Tensor]:
    """Return the inputs of one of a mixer's modules for each sequence of the text."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        for x, context in text:
            mixer(x, context)
    finally:
        handle.remove()
    return seen


@dataclass(frozen=True)
class Moments:
    """Sums over tokens of X^T X, X^T Y and |Y|^2 in float64: all that a regression of Y on X needs."""

    gram: Float[Tensor, "x x"]
    cross: Float[Tensor, "x y"]
    energy: Float[Tensor, ""]

    @classmethod
    def of(cls, x: Float[Tensor, "*tokens x"], y: Float[Tensor, "*tokens y"]) -> Moments:
        """Sum over these tokens."""
        x, y = x.flatten(0, -2).double(), y.flatten(0, -2).double()
        return cls(x.T @ x, x.T @ y, y.square().sum())

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross, self.energy + other.energy)

    def solve(self, ridge: float, start: Float[Tensor, "x y"]) -> Float[Tensor, "x y"]:
        """Return W with the least |Y - X W|^2 + ridge mean(diag X^T X) |W - start|^2."""
        size = ridge * self.gram.diagonal().mean().clamp(min=1e-30)
        damped = self.gram + size * torch.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device)
        residual = self.cross - self.gram @ start
        return start + torch.cholesky_solve(residual, torch.linalg.cholesky(damped))

    def error(self, weight: Float[Tensor, "x y"]) -> float:
        """Return |Y - X W|^2."""
        return max(0.0, float(self.energy + (weight * (self.gram @ weight - 2 * self.cross)).sum()))


def _moments(new: Any, text: Text, outputs: Sequence[Tensor]) -> tuple[Moments, Moments]:
    """Return the moments of the tokens used and of those held out, the last part of every sequence."""
    parts: list[Moments | None] = [None, None]
    for (x, context), wanted in zip(text, outputs, strict=True):
        (features,) = inputs_of(new.o, new, [(x, context)])
        if new.o.bias is not None:
            features = torch.cat((features, torch.ones_like(features[..., :1])), dim=-1)
        first = x.shape[1] - x.shape[1] // HELD_OUT
        for index, rows in enumerate((slice(0, first), slice(first, None))):
            sums = Moments.of(features[:, rows], wanted[:, rows])
            before = parts[index]
            parts[index] = sums if before is None else before + sums
    used, held = parts
    assert used is not None
    assert held is not None
    return used, held


def repeat_heads(projection: Any, width: int, times: int) -> dict[str, Tensor]:
    """Return the state of a projection with each of its heads repeated, as queries of a group see them."""
    return {
        name: tensor.unflatten(0, (-1, width)).repeat_interleave(times, 0).flatten(0, 1)
        for name, tensor in projection.state_dict().items()
    }


def attention_heads(old: Any, name: str) -> Tensor:
    """Return the weight of q, k or v of softmax attention by query head: (heads, head_dim, d)."""
    weight: Tensor = getattr(old, name).weight.unflatten(0, (-1, old.head_dim))
    return weight.repeat_interleave(len(old.q.weight) // old.head_dim // len(weight), dim=0)


def source_heads(count: int, heads: int) -> list[int]:
    """Return the index of the old head, of `count`, that each of `heads` new ones starts from."""
    return [index * count // heads for index in range(heads)]


def factors(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors of the best approximation of left @ right of at most this rank, of equal sizes."""
    a, s, b = torch.linalg.svd(left @ right, full_matrices=False)
    rank = min(rank, left.shape[1])
    root = s[:rank].sqrt()
    return a[:, :rank] * root, root[:, None] * b[:rank]


def copy_values(new: Any, old: Any, heads: int, width: int) -> None:
    """Set `new.v`, of so many heads of this width, to old heads' values.

    Heads of another width keep the strongest directions of the products of `o` and `v`.
    """
    values = attention_heads(old, "v")
    outputs = old.o.weight.unflatten(1, (len(values), old.head_dim)).transpose(0, 1)
    for index, head in enumerate(source_heads(len(values), heads)):
        weight = values[head]
        if width != old.head_dim:
            weight = factors(outputs[head], weight, width)[1]
        new.v.weight[index * width : index * width + len(weight)] = weight
    if new.v.bias is not None:
        new.v.bias.zero_()


def relative_sizes(old: Any, text: Text) -> list[Float[Tensor, "1 _ h"]]:
    """Return the rms of each old head's output over its mean, which the new mixer's norm removes."""
    outputs = (y.unflatten(-1, (-1, old.head_dim)) for y in inputs_of(old.o, old, text))
    sizes = [y.square().mean(-1).sqrt() for y in outputs]
    mean = torch.cat([size.flatten(0, 1) for size in sizes]).mean(0).clamp(min=1e-12)
    return [size / mean for size in sizes]


def open_gate(new: Any, text: Text, sizes: list[Float[Tensor, "1 _ h"]]) -> None:
    """Set silu(output_gate(x)) to a regression of relative sizes of the old heads' outputs."""
    weight = solve_for(text, [size - 1 + OPEN for size in sizes])  # silu(z) is about z - 0.28 there
    heads = source_heads(len(weight), new.sizes.heads)
    new.output_gate.weight.copy_(weight[heads].repeat_interleave(new.sizes.value, 0))


def shrink(projection: Any, text: Text) -> None:
    """Scale a projection whose outputs' size has no other effect, so that silu is nearly linear for them."""
    outputs = torch.cat([projection(x).flatten(0, 1) for x, _ in text])
    factor = SMALL / outputs.square().mean().sqrt().clamp(min=1e-12)
    for parameter in projection.parameters():
        parameter.mul_(factor)
