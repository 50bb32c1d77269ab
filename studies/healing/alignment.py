"""Alignment: each new part trained alone on the original model's activations.

A part is a layer's mixer or its feed-forward network. All parts learn at once, in one pass over the text:
they get the input of the original's part, and minimise the distance from its output (stage 1 of RADLADS,
arXiv 2505.03005).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studies.healing.parts import new_tensors
from studies.training.objective import Losses
from surgery.apply.plan import Plan
from surgery.model import HybridLM

PARTS = ("mixer", "ffn")


@dataclass(frozen=True)
class Pair:
    """A part of the rewritten model and the original's layer that it replaces."""

    layer: int
    source: int
    part: str  # one of PARTS

    @property
    def prefix(self) -> str:
        """Prefix of the names of the part's parameters."""
        return f"layers.{self.layer}.{self.part}."


def pairs_of(plan: Plan) -> tuple[Pair, ...]:
    """Return the parts with tensors that are not the original's, one pair for each layer they replace."""
    new = new_tensors(plan)
    return tuple(
        Pair(layer.index, source, part)
        for layer in plan.layers
        for part in PARTS
        if any(name.startswith(f"layers.{layer.index}.{part}.") for name in new)
        for source in layer.sources
    )


class Alignment:
    """Mean squared distance between outputs of parts, as a share of the original's (`output_distance`).

    A part's graph is freed before the next layer runs, so that memory does not grow with the number of parts.
    The auxiliary losses of a part (HDPL's KL terms, the KL of sparse attention's indexer) are minimised too.
    """

    in_nats = False

    def __init__(self, teacher: HybridLM, pairs: tuple[Pair, ...]) -> None:
        """Align with `teacher`, which is in evaluation mode."""
        assert pairs, "nothing to align"
        self.teacher, self.pairs = teacher, pairs

    def __call__(
        self, model: HybridLM, tokens: Tensor, targets: Tensor, counted: Tensor, share: float
    ) -> Losses:
        """Leave the gradients of the parts in `grad`; `loss` is the mean of their distances."""
        reported: list[tuple[Tensor, Tensor]] = []
        hooks = []
        for pair in self.pairs:
            part = getattr(model.layers[pair.layer], pair.part)
            original = getattr(self.teacher.layers[pair.source], pair.part)
            hooks.append(original.register_forward_hook(_comparison(part, share, reported)))
        try:
            with torch.no_grad():
                self.teacher(tokens)
        finally:
            for hook in hooks:
                hook.remove()
        distances, auxiliary = (torch.stack(values) for values in zip(*reported, strict=True))
        total = distances.sum() + auxiliary.sum()
        return Losses(total, {"loss": distances.mean() * share, "auxiliary": auxiliary.sum() * share})


def _comparison(
    part: nn.Module, share: float, reported: list[tuple[Tensor, Tensor]]
) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    """Return a hook that runs `part` on the observed module's input and adds the gradients to its own."""

    def hook(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, context = inputs
        own = replace(context, losses=[])
        with torch.enable_grad():
            distance = output_distance(part(x.detach(), own), output.detach())
            auxiliary = torch.stack(own.losses).sum() if own.losses else distance.new_zeros(())
            with torch.autocast(x.device.type, enabled=False):
                ((distance + auxiliary) * share).backward()
        torch.clear_autocast_cache()  # its copies of the weights belong to the graph that is gone
        reported.append((distance.detach(), auxiliary.detach()))

    return hook


def output_distance(ours: Float[Tensor, "b t d"], theirs: Float[Tensor, "b t d"]) -> Float[Tensor, ""]:
    """Return the mean over tokens of 2 |ours - theirs|^2 / (|theirs|^2 + E), E being their typical energy.

    It is 1 for an output of zero where all tokens have the same energy. E is the geometric mean, and the
    energy of the token itself is added, since a few tokens have massive activations: in SmolLM2-135M the mean
    energy after the feed-forward network of layer 11 is 1,400 times the median. In a plain mean those tokens
    would be the only ones that count.
    """
    energy = theirs.float().square().sum(-1)
    typical = energy.clamp_min(1e-12).log().mean().exp()
    return (2 * (ours.float() - theirs.float()).square().sum(-1) / (energy + typical)).mean()
