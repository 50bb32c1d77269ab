"""The one-line summary of an architecture, for tables, logs and plots."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.architecture.layers import Layer
from surgery.architecture.layout import shorten
from surgery.config.backbone import FFN_PROJECTIONS, Backbone
from surgery.config.selector import write_layers
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS

_SHORT_NAMES = {"gate": "g", "up": "u", "down": "d"}


def summarize(
    layout: str,
    layers: Sequence[Layer],
    loop: str,
    backbone: Backbone,
) -> str:
    """Return a summary such as `FFFF·hdpl[qkv,gu] b8 r128·kv[0:1]·ffn[3:none]·loop 2`.

    It has the layout, the operators, the numbers of key/value heads and the feed-forward widths other than
    the backbone's, and the loop, if there is one.
    """
    heads = [MIXERS[layer.mixer].kv_heads(backbone, layer.mixer_options) for layer in layers]
    parts = [
        shorten(layout),
        *(_operators(layers) or ["dense"]),
        *_sizes("kv", [count or backbone.num_kv_heads for count in heads], backbone.num_kv_heads),
        *_sizes("ffn", [layer.ffn_dim for layer in layers], backbone.ffn_dim),
    ]
    return "·".join([*parts, loop] if loop else parts)


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


def _sizes(name: str, sizes: Sequence[int], usual: int) -> list[str]:
    """Return `ffn[3,7:768 5:none]` for the layers whose size is not the usual one; 0 is none."""
    others: dict[int, list[int]] = {}
    for index, size in enumerate(sizes):
        if size != usual:
            others.setdefault(size, []).append(index)
    texts = []
    for size, indices in others.items():
        selector = write_layers(tuple(indices), len(sizes))
        texts.append((f"{selector}:" if selector else "") + (str(size) if size else "none"))
    return [f"{name}[{' '.join(texts)}]"] if texts else []


def _projection_letters(names: set[str]) -> str:
    """Abbreviate {q, k, v, gate, up} to `qkv,gu`."""
    attention = "".join(name for name in "qkvo" if name in names)
    ffn = "".join(_SHORT_NAMES[name] for name in FFN_PROJECTIONS if name in names)
    return ",".join(part for part in (attention, ffn) if part)
