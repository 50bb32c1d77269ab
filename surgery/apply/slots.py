"""Slots: the names and rows under which a family stores the modules of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Spans = tuple[tuple[int, int], ...]  # of rows: the first, and one after the last


@dataclass(frozen=True)
class Slot:
    """Stored location of a module, or of a parameter that is in no module of its own.

    Attributes:
        stored: name within the layer, of a module or of a parameter.
        rows: spans of a fused module's rows that are its rows, in order; None: all.
    """

    stored: str
    rows: Spans | None = None


# by the name within a layer, in transformers' Llama, of a module or of a parameter
Slots = Mapping[str, Slot]


@dataclass(frozen=True)
class Refusal:
    """A field of config.json that asks for what can't be carried."""

    field: str
    value: object
    rule: str
    hint: str = ""


def head_width(config: Any) -> int:
    """Return the width of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def stacked(whole: str, heights: Mapping[str, int], groups: int = 1) -> dict[str, Slot]:
    """Return the slots of modules that are fused into one.

    Args:
        whole: name of the fused module.
        heights: rows of each module within a group, in the order of the fused rows.
        groups: times that this order is repeated, such as once per head.
    """
    slots, start, height = {}, 0, sum(heights.values())
    for name, rows in heights.items():
        slots[name] = Slot(whole, evenly(start, rows, groups, height))
        start += rows
    return slots


def evenly(start: int, rows: int, count: int, step: int) -> Spans:
    """Return `count` spans of `rows` rows, each `step` rows behind the one before."""
    return tuple((first, first + rows) for first in range(start, start + count * step, step))


def repeated(spans: Spans, times: int) -> Spans:
    """Return the spans, each `times` times."""
    return tuple(span for span in spans for _ in range(times))
