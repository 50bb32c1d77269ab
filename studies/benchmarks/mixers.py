"""Timing of mixers at several lengths in one process: training steps and decoded tokens.

Every round measures each mixer once, so that a machine that slows down affects all of them equally; medians
and spreads over the rounds are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from studies.benchmarks.peak import peak_flops
from studies.latency.timing import summary, timed
from studies.training.devices import autocast
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.context import Context, DecodeCache
from surgery.model import HybridLM
from surgery.ops.rotary import rotary_tables

DECODED = 16  # tokens timed after a prefill


@dataclass(frozen=True)
class Timing:
    """One mixer at one length. Times are medians over the rounds; spreads are (highest - lowest) / median."""

    mixer: str
    length: int
    batch: int
    forward_ms: float  # of a training batch
    forward_spread: float
    train_ms: float  # forward and backward
    train_spread: float
    tokens_per_s: float
    of_peak: float  # FLOPs/s of its matrix products, as a share of those of one large product
    decode_ms: float | None  # per token after `length` others, one sequence
    decode_spread: float | None
    cache_bytes: int  # of that sequence, computed

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """Settings of the benchmark. `layers` 0: one mixer alone, without norms, feed-forward and head."""

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
    """Yield timings by length, all mixers of a length together."""
    peak = peak_flops(device)
    for length in plan.lengths:
        batch = max(1, plan.tokens // length)
        models = {letter: _model(plan, letter, device) for letter in plan.mixers}
        steps = {letter: _train_step(plan, model, batch, length, device) for letter, model in models.items()}
        times: dict[str, list[tuple[float, ...]]] = {letter: [] for letter in models}
        for number in range(plan.rounds + 1):
            for letter, model in models.items():
                if on_timing is not None:
                    on_timing(letter, length)
                model.train()
                forward, step = steps[letter]
                seconds: tuple[float, ...] = timed(forward, device), timed(step, device)
                if plan.decode:
                    seconds += (_decode(plan, model, length, device),)
                if number:  # the first round warms up
                    times[letter].append(seconds)
        for letter, model in models.items():
            ahead, train, *rest = map(summary, zip(*times[letter], strict=True))
            token = rest[0] if rest else None
            tokens_per_s = 1000 * batch * length / train.ms
            yield Timing(
                mixer=letter,
                length=length,
                batch=batch,
                forward_ms=ahead.ms,
                forward_spread=ahead.spread,
                train_ms=train.ms,
                train_spread=train.spread,
                tokens_per_s=tokens_per_s,
                of_peak=tokens_per_s * _flops(plan, model, length) / peak,
                decode_ms=token.ms if token is not None else None,
                decode_spread=token.spread if token is not None else None,
                cache_bytes=cost(model.architecture, f"cache_bytes@{length}"),
            )


def _model(plan: Plan, letter: str, device: torch.device) -> HybridLM:
    torch.manual_seed(0)
    backbone = replace(plan.architecture.backbone, num_layers=max(1, plan.layers))
    return HybridLM(Architecture(backbone, letter, plan.architecture.mixers)).to(device)


def _flops(plan: Plan, model: HybridLM, length: int) -> float:
    """Return the timed training FLOPs per token in matrix products."""
    sizes = model.architecture.backbone
    whole = cost(model.architecture, f"train_flops@{length}")
    # a mixer alone has neither the feed-forward, which is dense here, nor the head
    untimed = 0 if plan.layers else 3 * 2 * sizes.dim * (3 * sizes.ffn_dim + sizes.vocab_size)
    return whole - untimed


def _train_step(
    plan: Plan, model: HybridLM, batch: int, length: int, device: torch.device
) -> tuple[Callable[[], object], Callable[[], None]]:
    """Return a training forward, and a forward with backward, without optimizer."""
    backbone = model.architecture.backbone
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

    def forward() -> torch.Tensor:
        with autocast(device):
            return loss()

    def step() -> None:
        forward().backward()
        model.zero_grad(set_to_none=True)

    return forward, step


@torch.no_grad()
def _decode(plan: Plan, model: HybridLM, length: int, device: torch.device) -> float:
    """Return the seconds per decoded token after `length` tokens."""
    backbone = model.architecture.backbone
    model.eval()
    cache = DecodeCache()

    def feed(count: int) -> None:
        with autocast(device):
            if plan.layers:
                model.head(model(torch.zeros(1, count, dtype=torch.long, device=device), cache=cache)[:, -1:])
                return
            positions = torch.arange(cache.length, cache.length + count, device=device)[None]
            context = Context(rotary_tables(backbone, positions), seen=cache.length, cache=cache)
            layer: Any = model.layers[0]
            layer.mixer(torch.randn(1, count, backbone.dim, device=device), context)
            cache.length += count

    feed(length)
    feed(1)

    def tokens() -> None:
        for _ in range(DECODED):
            feed(1)

    return timed(tokens, device) / DECODED
