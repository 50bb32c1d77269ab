"""The one-line summary of an architecture, for tables, logs and plots."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.architecture.layers import Layer
from surgery.architecture.layout import shorten
from surgery.config.backbone import FFN_PROJECTIONS
from surgery.config.selector import write_layers
from surgery.projections import PROJECTION_OPERATORS

_SHORT_NAMES = {"gate": "g", "up": "u", "down": "d"}


def summarize(
    layout: str,
    layers: Sequence[Layer],
    loop_count: int,
    loop_windows: Sequence[int | None],
    ffn_dim: int,
) -> str:
    """Return a summary such as `FFFF·hdpl[qkv,gu] b8 r128·ffn[3:none]·loop 2`.

    It has the layout, the operators, the feed-forward widths other than `ffn_dim`, and the loop.
    """
    parts = [shorten(layout), *(_operators(layers) or ["dense"]), *_widths(layers, ffn_dim)]
    if loop_count > 1:
        sizes = "-".join(str(size or "full") for size in loop_windows)
        parts.append(f"loop {loop_count}" + (f" w{sizes}" if sizes else ""))
    return "·".join(parts)


def _operators(layers: Sequence[Layer]) -> list[str]:
    """Return a text per operator and options other than dense, with its projections and layers."""
    groups: dict[tuple[str, str], dict[int, set[str]]] = {}
    for index, layer in enumerate(layers):
        for name, item in layer.projections.items():
            short = PROJECTION_OPERATORS[item.name].short(item.options)
            groups.setdefault((item.name, short), {}).setdefault(index, set()).add(name)
    parts = []
    for (operator, short), by_layer in groups.items():
        if operator == "dense":
            continue
        merged: dict[str, list[int]] = {}
        for index, names in by_layer.items():
            merged.setdefault(_projection_letters(names), []).append(index)
        selectors = {
            letters: write_layers(tuple(indices), len(layers)) for letters, indices in merged.items()
        }
        targets = " ".join(
            f"[{letters}]" + (f"@{selector}" if selector else "") for letters, selector in selectors.items()
        )
        parts.append(f"{operator}{targets} {short}".rstrip())
    return parts


def _widths(layers: Sequence[Layer], ffn_dim: int) -> list[str]:
    """Return `ffn[3,7:768 5:none]` for the layers whose feed-forward part is not `ffn_dim` wide."""
    others: dict[int, list[int]] = {}
    for index, layer in enumerate(layers):
        if layer.ffn_dim != ffn_dim:
            others.setdefault(layer.ffn_dim, []).append(index)
    texts = []
    for width, indices in others.items():
        selector = write_layers(tuple(indices), len(layers))
        texts.append((f"{selector}:" if selector else "") + (str(width) if width else "none"))
    return [f"ffn[{' '.join(texts)}]"] if texts else []


def _projection_letters(names: set[str]) -> str:
    """Abbreviate {q, k, v, gate, up} to `qkv,gu`."""
    attention = "".join(name for name in "qkvo" if name in names)
    ffn = "".join(_SHORT_NAMES[name] for name in FFN_PROJECTIONS if name in names)
    return ",".join(part for part in (attention, ffn) if part)
