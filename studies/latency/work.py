"""Work that is timed: a prompt or a decoded token, by copies of a block, the rest of a model, or a whole one.

Weights and inputs are random, since times do not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor, nn

from surgery.architecture import Architecture, Layer
from surgery.architecture.timed_parts import FFN, MIXER, TimedPart
from surgery.config.backbone import FFN_PROJECTIONS, Backbone
from surgery.context import Context, DecodeCache, State
from surgery.mixers import MIXERS
from surgery.model import Block, HybridLM
from surgery.ops.rotary import Rotary, rotary_tables

DECODE = "decode_ms"
CACHE_BYTES = 256 << 20  # more than the caches of CPUs and GPUs hold
PREFILLED = 4  # copies at most
NO_MIXER = "N"

Work = Callable[[], object]
Module = TypeVar("Module", bound=nn.Module)


class _Unchanged(dict[tuple[int, int], State]):
    """States that stay as they are, so that the same token is decoded again and again.

    New ones are freed at once, as old ones are while a model decodes.
    """

    def __setitem__(self, slot: tuple[int, int], state: State) -> None:
        pass


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

    A mixer or feed-forward part is timed in a stack of copies of itself, so many that their weights and
    states are as large as the dense model's, or larger than a device's caches: repeating a single one would
    find them there, which the layers of a model don't. A looped stack decodes with states for each pass.

    Args:
        part: the part.
        metric: `decode_ms` or `prefill_ms`.
        length: context, the decoded token included, or prompt in tokens.
        setup: device and batch.
    """
    backbone, layer = part.backbone, part.layer
    if layer is None:  # a model whose layers are empty
        empty = Architecture(replace(backbone, ffn_dim=0), NO_MIXER, loop_count=part.passes)
        return model_work(empty, metric, length, setup), 1
    alone = _alone(part, layer)
    passes = part.passes if metric == DECODE else 1
    with setup.device:
        block = setup.ready(Block(backbone, alone))
    copies = _copies(part, layer, block, metric, length, setup)
    stack = nn.ModuleList([block, *(deepcopy(block) for _ in range(copies - 1))])
    return _stack_work(stack, part, metric, length, passes, setup), copies * passes


def _copies(part: TimedPart, layer: Layer, block: Block, metric: str, length: int, setup: Setup) -> int:
    """Return the number of copies in the stack of a part."""
    layers = part.backbone.num_layers
    if metric != DECODE:  # computing takes longer than reading weights
        return min(layers, PREFILLED)
    weights = sum(item.numel() * item.itemsize for item in block.parameters())
    cached = 0
    if part.kind == MIXER:
        spec = MIXERS[layer.mixer]
        options = spec.in_pass(layer.mixer_options, part.window)
        in_bfloat16 = spec.cache_bytes(part.backbone, options, length)
        cached = part.passes * setup.batch * in_bfloat16 * setup.dtype.itemsize // 2
    held = min(CACHE_BYTES, part.weights_beside * setup.dtype.itemsize + layers * cached)
    return max(1, -(-held // max(1, weights + cached)))


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
    cache.states, token = _Unchanged(cache.states), setup.tokens(1, vocab_size)

    def decode() -> None:
        model.head(model(token, cache=cache)[:, -1:])
        cache.length = length - 1

    return _no_grad(decode)


def _alone(part: TimedPart, layer: Layer) -> Layer:
    """Return the layer with this part only."""
    if part.kind == FFN:
        return replace(layer, mixer=NO_MIXER, mixer_options={}, projections=part.projections)
    assert part.kind == MIXER
    assert MIXERS[layer.mixer].mixes
    own = {name: item for name, item in layer.projections.items() if name not in FFN_PROJECTIONS}
    return replace(layer, projections=own)


def _stack_work(
    stack: nn.ModuleList, part: TimedPart, metric: str, length: int, passes: int, setup: Setup
) -> Work:
    """Return passes of one token after others, or of a prompt, through a stack of blocks."""
    backbone, cache = part.backbone, DecodeCache()

    def run(blocks: nn.ModuleList, h: Tensor, rotary: Rotary, seen: int, passes: int) -> None:
        context = Context(rotary, seen, window=part.window, cache=cache)
        for loop in range(passes):
            for index, block in enumerate(blocks):
                context.slot = (index, loop)
                h = block(h, context)

    new = 1 if metric == DECODE else length
    seen = length - new
    if seen:  # equal blocks have equal states
        first, positions = setup.states(seen, backbone.dim), setup.rotary(backbone, 0, seen)
        _no_grad(lambda: run(stack[:1], first, positions, 0, 1))()
        if (state := cache.states.get((0, 0))) is not None:
            for slot in product(range(len(stack)), range(passes)):
                cache.states[slot] = tuple(tensor.clone() for tensor in state)
    if metric == DECODE:
        cache.states = _Unchanged(cache.states)
    h, rotary = setup.states(new, backbone.dim), setup.rotary(backbone, seen, length)

    def work() -> None:
        run(stack, h, rotary, seen, passes)
        if metric != DECODE:
            cache.states = {}

    return _no_grad(work)


def _no_grad(work: Work) -> Work:
    def run() -> object:
        with torch.no_grad():
            return work()

    return run
