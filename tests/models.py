"""Small models for tests, and the ways to run them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from surgery.architecture import Architecture
from surgery.context import Context, DecodeCache
from surgery.model import HybridLM

BACKBONE: dict[str, Any] = {
    "vocab_size": 37, "dim": 24, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6,
    "ffn_dim": 20,
}  # fmt: skip


def architecture(
    layout: str = "F",
    *,
    mixers: dict[str, Any] | None = None,
    projections: list[Any] | None = None,
    ffn: list[Any] | None = None,
    loops: int = 1,
    windows: list[Any] | None = None,
    span: str | None = None,
    inject: bool = False,
    delta_rank: int = 0,
    **backbone: Any,
) -> Architecture:
    loop = {"count": loops, "windows": windows, "span": span, "inject": inject, "delta_rank": delta_rank}
    return Architecture.from_dict({
        "backbone": BACKBONE | backbone, "layout": layout, "mixers": mixers or {}, "ffn": ffn or [],
        "projections": projections or [], "loop": loop,
    })  # fmt: skip


def build(arch: Architecture, *, spread: float = 0.1) -> HybridLM:
    """In evaluation mode, every parameter moved off its start so that zeros and ones hide nothing."""
    model = HybridLM(arch).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=spread)
    return model


def context(**fields: Any) -> Context:
    """The context of a layer that reads no positions."""
    return Context(rotary=(torch.empty(1, 0, 0), torch.empty(1, 0, 0)), **fields)


def decode(
    model: HybridLM, inputs: Tensor, sizes: Iterable[int], cache: DecodeCache | None = None, **arguments: Any
) -> Tensor:
    """Hidden states of a sequence fed in pieces of these sizes through a cache. `inputs` are tokens, or
    embeddings where they are floats."""
    cache = cache if cache is not None else DecodeCache()
    mask = arguments.pop("attention_mask", None)
    parts = []
    start = 0
    for size in sizes:
        piece = inputs[:, start : start + size]
        start += size
        here = dict(arguments)
        if mask is not None:
            here["attention_mask"] = mask[:, :start]
        if piece.is_floating_point():
            parts.append(model(None, embeddings=piece, cache=cache, **here))
        else:
            parts.append(model(piece, cache=cache, **here))
    assert start == inputs.shape[1]
    return torch.cat(parts, dim=1)
