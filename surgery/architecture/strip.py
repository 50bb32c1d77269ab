"""A small picture of an architecture: one column per layer, a row of mixers and one row per projection."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.architecture.architecture import Architecture
from surgery.architecture.layers import Layer
from surgery.config.backbone import FFN_PROJECTIONS, PROJECTIONS, Backbone
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS

DENSE, RESIZED, REPLACED, ABSENT = "·", "◦", "■", " "
SPACED_UP_TO = 24  # layers; deeper stacks are drawn without gaps


@dataclass(frozen=True)
class StripRow:
    """Row of a strip. `cells` has one (mark, kind) per layer; kind: mixer letter, operator name or empty."""

    label: str
    cells: tuple[tuple[str, str], ...]


def strip_rows(architecture: Architecture) -> tuple[StripRow, ...]:
    """Return the row of mixers, then q k v o gate up down.

    `·` is dense, `◦` dense with another number of key/value heads or feed-forward width than the backbone's,
    `■` another operator. A projection that a layer lacks is blank.
    """
    layers = architecture.layers
    rows = [StripRow("mixer", tuple((layer.mixer, layer.mixer) for layer in layers))]
    for name in PROJECTIONS:
        cells = []
        for layer in layers:
            item = layer.projections.get(name)
            if item is None:
                cells.append((ABSENT, ""))
            else:
                dense = RESIZED if name in _resized(layer, architecture.backbone) else DENSE
                cells.append((dense if item.name == "dense" else REPLACED, item.name))
        rows.append(StripRow(name, tuple(cells)))
    return tuple(rows)


def strip_key(*architectures: Architecture, marks: bool = True) -> list[tuple[str, str]]:
    """Return (sign, meaning) of the letters and, with `marks`, the marks in these architectures' strips."""
    used = {letter for architecture in architectures for letter in architecture.layout}
    key = [(letter, spec.name) for letter, spec in MIXERS.items() if letter in used]
    if not marks:
        return key
    rows = [row for architecture in architectures for row in strip_rows(architecture)[1:]]
    cells = {cell for row in rows for cell in row.cells}
    shown, kinds = {mark for mark, _ in cells}, {kind for _, kind in cells}
    key += [
        (mark, meaning)
        for mark, meaning in ((DENSE, "dense"), (RESIZED, "dense, of another size"))
        if mark in shown
    ]
    return key + [(REPLACED, name) for name in PROJECTION_OPERATORS if name in kinds and name != "dense"]


def _resized(layer: Layer, backbone: Backbone) -> set[str]:
    """Return the projections whose size the layer sets itself, other than the backbone's."""
    names = set(FFN_PROJECTIONS) if layer.ffn_dim != backbone.ffn_dim else set[str]()
    heads = MIXERS[layer.mixer].kv_heads(backbone, layer.mixer_options)
    return names | ({"k", "v"} if heads not in (None, backbone.num_kv_heads) else set())


def strip_gap(architecture: Architecture) -> str:
    """Return the text between two columns."""
    return " " if architecture.backbone.num_layers <= SPACED_UP_TO else ""


def plain_strip(architecture: Architecture) -> str:
    """Return the picture as lines of text, without colour."""
    gap = strip_gap(architecture)
    rows = strip_rows(architecture)
    lines = [f"{row.label:<5} {gap.join(mark for mark, _ in row.cells)}".rstrip() for row in rows]
    if architecture.loop_count > 1:
        lines[0] += f"  {architecture.loop_mark}"
    return "\n".join(lines)
