"""Work that is timed: a prompt or a decoded token, by copies of a block, the rest of a model, or a whole one.

Weights and inputs are random, since times do not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from surgery.architecture import Architecture, Layer
from surgery.architecture.timed_parts import FFN, MIXER, TimedPart
from surgery.config.backbone import FFN_PROJECTIONS, Backbone
from surgery.context import Context, DecodeCache
from surgery.mixers import MIXERS
from surgery.model import Block, HybridLM
from surgery.ops.rotary import Rotary, rotary_tables

DECODE = "decode_ms"
CACHE_BYTES = 256 << 20  # of weights: more than the caches of CPUs and GPUs hold
NO_MIXER = "N"

Work = Callable[[], object]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Setup:
    """Device and number of sequences with which blocks are timed."""

    device: torch.device
    batch: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and activations: bfloat16 on CUDA, float32 on a CPU."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def ready(self, module: Module) -> Module:
        """Return a module with its weights on the device, in evaluation mode."""
        return module.to(self.device, self.dtype).eval().requires_grad_(False)

    def states(self, length: int, dim: int) -> Tensor:
        """Return random hidden states (batch, length, dim)."""
        return torch.randn(self.batch, length, dim, device=self.device, dtype=self.dtype)

    def tokens(self, length: int, vocab_size: int) -> Tensor:
        """Return random token ids (batch, length)."""
        return torch.randint(vocab_size, (self.batch, length), device=self.device)

    def rotary(self, backbone: Backbone, start: int, stop: int) -> Rotary:
        """Return the rotary tables of positions start to stop - 1."""
        return rotary_tables(backbone, torch.arange(start, stop, device=self.device)[None])


def part_work(part: TimedPart, metric: str, length: int, setup: Setup) -> tuple[Work, int]:
    """Return what is timed for a part, and by how many the time is divided.

    A mixer or feed-forward part is timed in a stack of copies of itself, as deep as the model, or with more
    weights than fit into the device's caches: repeating a single one would find its weights there, which the
    layers of a model don't.

    Args:
        part: the part.
        metric: `decode_ms` or `prefill_ms`.
        length: context, the decoded token included, or prompt in tokens.
        setup: device and batch.
    """
    if part.layer is None:  # a model whose layers are empty
        backbone = replace(part.backbone, ffn_dim=0)
        empty = Architecture(backbone, NO_MIXER, loop_count=part.passes)
        return model_work(empty, metric, length, setup), 1
    layer = _alone(part, part.layer)
    with setup.device:
        first = Block(part.backbone, layer)
        size = sum(item.numel() * setup.dtype.itemsize for item in first.parameters())
        copies = max(1, min(part.backbone.num_layers, -(-CACHE_BYTES // max(1, size))))
        blocks = [first, *(Block(part.backbone, layer) for _ in range(copies - 1))]
    stack = nn.ModuleList(setup.ready(block) for block in blocks)
    return _stack_work(stack, part, metric, length, setup), copies


def model_work(architecture: Architecture, metric: str, length: int, setup: Setup) -> Work:
    """Return what is timed for a whole model: a decoded token or a prompt, up to the last token's logits."""
    with setup.device:
        model = HybridLM(architecture)
    setup.ready(model)
    vocab_size = architecture.backbone.vocab_size
    if metric != DECODE:
        prompt = setup.tokens(length, vocab_size)
        return _no_grad(lambda: model.head(model(prompt, cache=DecodeCache())[:, -1:]))
    cache = DecodeCache()
    if length > 1:
        _no_grad(lambda: model(setup.tokens(length - 1, vocab_size), cache=cache))()
    states, token = dict(cache.states), setup.tokens(1, vocab_size)

    def decode() -> None:
        model.head(model(token, cache=cache)[:, -1:])
        cache.states, cache.length = dict(states), length - 1

    return _no_grad(decode)


def _alone(part: TimedPart, layer: Layer) -> Layer:
    """Return the layer with this part only."""
    if part.kind == FFN:
        return replace(layer, mixer=NO_MIXER, mixer_options={}, projections=part.projections)
    assert part.kind == MIXER
    assert MIXERS[layer.mixer].mixes
    own = {name: item for name, item in layer.projections.items() if name not in FFN_PROJECTIONS}
    return replace(layer, projections=own)


def _stack_work(stack: nn.ModuleList, part: TimedPart, metric: str, length: int, setup: Setup) -> Work:
    """Return a pass of one token after others, or of a prompt, through a stack of blocks."""
    cache = DecodeCache()
    backbone = part.backbone

    def run(h: Tensor, rotary: Rotary, seen: int) -> None:
        context = Context(rotary, seen, window=part.window, cache=cache)
        for index, block in enumerate(stack):
            context.slot = (index, 0)
            h = block(h, context)

    new = 1 if metric == DECODE else length
    seen = length - new
    if seen:
        first, positions = setup.states(seen, backbone.dim), setup.rotary(backbone, 0, seen)
        _no_grad(lambda: run(first, positions, 0))()
    states = dict(cache.states)
    h, rotary = setup.states(new, backbone.dim), setup.rotary(backbone, seen, length)

    def work() -> None:
        run(h, rotary, seen)
        cache.states = dict(states)

    return _no_grad(work)


def _no_grad(work: Work) -> Work:
    def run() -> object:
        with torch.no_grad():
            return work()

    return run
