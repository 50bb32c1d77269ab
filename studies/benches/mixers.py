"""How long mixers take: a training step and a decoded token, at growing lengths, side by side in one process.

A round measures every mixer once, and rounds follow each other, so that a machine that slows down slows all
of them; reported are the median and the spread over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from studies.benches.timing import summary, timed
from studies.devices import autocast
from surgery.architecture import Architecture
from surgery.context import Context, DecodeCache
from surgery.costs import cost
from surgery.model import HybridLM
from surgery.rotary import rotary_tables

DECODED = 16  # tokens timed after a prefill


@dataclass(frozen=True)
class Timing:
    """One mixer at one length. Times are medians over the rounds; spreads are (highest - lowest) / median."""

    mixer: str
    length: int
    batch: int
    train_ms: float  # forward and backward of a batch
    train_spread: float
    tokens_per_s: float
    decode_ms: float | None  # a token after `length` others, one sequence
    decode_spread: float | None
    cache_bytes: int  # of that sequence, as computed

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """What to measure. `layers` 0: the mixer of one layer alone, without norms, feed-forward and head."""

    architecture: Architecture  # its backbone and mixers' options; the layout is replaced
    mixers: tuple[str, ...]
    lengths: tuple[int, ...]
    tokens: int  # of a training batch; at least one sequence
    layers: int = 0
    rounds: int = 3
    decode: bool = True


def measure(
    plan: Plan, device: torch.device, on_timing: Callable[[str, int], None] | None = None
) -> Iterator[Timing]:
    """Timings, one length after the other, all mixers of a length together."""
    for length in plan.lengths:
        batch = max(1, plan.tokens // length)
        models = {letter: _model(plan, letter, device) for letter in plan.mixers}
        trained: dict[str, list[float]] = {letter: [] for letter in models}
        decoded: dict[str, list[float]] = {letter: [] for letter in models}
        for turn in range(plan.rounds + 1):
            for letter, model in models.items():
                if on_timing is not None:
                    on_timing(letter, length)
                step = _train_step(plan, model, batch, length, device)
                seconds = [timed(step, device)] + (
                    [_decode(plan, model, length, device)] if plan.decode else []
                )
                if turn:  # the first round warms up
                    trained[letter].append(seconds[0])
                    decoded[letter] += seconds[1:]
        for letter, model in models.items():
            train = summary(trained[letter])
            token = summary(decoded[letter]) if plan.decode else None
            yield Timing(
                mixer=letter,
                length=length,
                batch=batch,
                train_ms=train.ms,
                train_spread=train.spread,
                tokens_per_s=1000 * batch * length / train.ms,
                decode_ms=token.ms if token is not None else None,
                decode_spread=token.spread if token is not None else None,
                cache_bytes=cost(model.architecture, f"cache_bytes@{length}"),
            )


def _model(plan: Plan, letter: str, device: torch.device) -> HybridLM:
    torch.manual_seed(0)
    backbone = replace(plan.architecture.backbone, num_layers=max(1, plan.layers))
    return HybridLM(Architecture(backbone, letter, plan.architecture.mixers)).to(device)


def _train_step(
    plan: Plan, model: HybridLM, batch: int, length: int, device: torch.device
) -> Callable[[], None]:
    """A forward and a backward, without optimizer."""
    backbone = model.architecture.backbone
    model.train()
    if plan.layers:
        tokens = torch.randint(backbone.vocab_size, (batch, length), device=device)

        def loss() -> torch.Tensor:
            return torch.stack(model.loss(tokens, tokens)).sum()
    else:
        x = torch.randn(batch, length, backbone.dim, device=device, requires_grad=True)
        mixer: Any = model.layers[0]

        def loss() -> torch.Tensor:
            context = Context(rotary_tables(backbone, torch.arange(length, device=device)[None]))
            y: torch.Tensor = mixer.mixer(x, context).sum()
            return torch.stack((y, *context.losses)).sum()

    def step() -> None:
        with autocast(device):
            value = loss()
        value.backward()
        model.zero_grad(set_to_none=True)

    return step


@torch.no_grad()
def _decode(plan: Plan, model: HybridLM, length: int, device: torch.device) -> float:
    """Seconds a token after `length` tokens."""
    backbone = model.architecture.backbone
    model.eval()
    cache = DecodeCache()

    def feed(count: int) -> None:
        with autocast(device):
            if plan.layers:
                model.head(model(torch.zeros(1, count, dtype=torch.long, device=device), cache=cache)[:, -1:])
                return
            places = torch.arange(cache.length, cache.length + count, device=device)[None]
            context = Context(rotary_tables(backbone, places), seen=cache.length, cache=cache)
            layer: Any = model.layers[0]
            layer.mixer(torch.randn(1, count, backbone.dim, device=device), context)
            cache.length += count

    feed(length)
    feed(1)

    def tokens() -> None:
        for _ in range(DECODED):
            feed(1)

    return timed(tokens, device) / DECODED
