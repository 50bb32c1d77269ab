"""Entries of a library: one replacement of one part, named by what it is and not by its label.

Two spaces over the same model may call different replacements alike; those that are the same are shared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces.replacements import Replacements, paired
from surgery.architecture.layers import Layer
from surgery.config.backbone import FFN_PROJECTIONS, Backbone
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS


@dataclass(frozen=True)
class Entry:
    """A replacement of a part.

    Attributes:
        layer: index of the layer.
        part: `mixer` or `ffn`.
        label: the replacement's label in the space at hand.
        name: unique name in the library, such as `layer.3.mixer.5f0c94d1a2`.
        absent: the part is left out, so that there are no tensors.
    """

    layer: int
    part: str
    label: str
    name: str
    absent: bool

    @property
    def key(self) -> tuple[str, str]:
        """Name of the part in the space, and the label."""
        return f"layer.{self.layer}.{self.part}", self.label

    @property
    def prefix(self) -> str:
        """Prefix of the names of the part's tensors in a model."""
        return f"layers.{self.layer}.{self.part}."


def entries_of(parts: Replacements) -> dict[tuple[str, str], Entry]:
    """Return the entry of every replacement of a space by (part's name, label), in the order of the parts.

    Keeping a part is no entry.
    """
    layers: dict[tuple[str, str], tuple[Layer, ...]] = {}
    entries = {}
    for part, option in paired(parts.parts):
        kind = (part.part, option.label)
        if kind not in layers:
            layers[kind] = parts.uniform(*kind).layers
        layer = layers[kind][part.layer]
        absent = not (MIXERS[layer.mixer].mixes if part.part == "mixer" else layer.ffn_dim)
        name = f"{part.name}.{_digest(parts.backbone, layer, part.part)}"
        entries[part.name, option.label] = Entry(part.layer, part.part, option.label, name, absent)
    return entries


def chosen(parts: Replacements, choice: Mapping[str, str]) -> list[Entry]:
    """Return the entries of a choice of labels by part's name."""
    entries = entries_of(parts)
    return [entries[key] for key in choice.items() if key in entries]


def _digest(backbone: Backbone, layer: Layer, part: str) -> str:
    """Return a hash of what a part of a layer is, without options that have no effect."""
    data: dict[str, Any] = {
        name: [item.name, item.d_in, item.d_out, PROJECTION_OPERATORS[item.name].canonical(item.options)]
        for name, item in layer.projections.items()
        if (name in FFN_PROJECTIONS) == (part == "ffn")
    }
    if part == "mixer":
        spec, options = MIXERS[layer.mixer], dict(layer.mixer_options)
        if "kv_heads" in options:  # 0 is the backbone's number
            options["kv_heads"] = spec.kv_heads(backbone, options)
        data["mixer"] = [layer.mixer, spec.canonical(backbone, options)]
    text = json.dumps(data, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
