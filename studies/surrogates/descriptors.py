"""What may tell how an architecture learns on: mixers, passes, replaced projections, size; every choice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from surgery.architecture import Architecture
from surgery.architecture.costs import params_nonembedding
from surgery.config.backbone import PROJECTIONS
from surgery.config.options import Option
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS

SUMMARY = len(MIXERS) + 3  # descriptors that say most; those behind them are many, and most of them idle
NOWHERE = math.nan  # an option of what the architecture does not have


def features(architecture: Architecture) -> tuple[float, ...]:
    """Shares of the layers by mixer, log of passes, share of replaced projections, log of parameters; then
    every choice: where in depth things stand and with what options, NaN where they stand nowhere."""
    layout = architecture.layout
    operators = [item.name for layer in architecture.layers for item in layer.projections.values()]
    return (
        *(layout.count(letter) / len(layout) for letter in MIXERS),
        math.log(architecture.loop_count),
        sum(name != "dense" for name in operators) / len(operators),
        math.log(params_nonembedding(architecture)),
        *_mixers(architecture),
        *_operators(architecture),
        math.log(architecture.backbone.ffn_dim),
        *_windows(architecture),
    )


def _mixers(architecture: Architecture) -> Iterator[float]:
    layers = architecture.layers
    for letter, spec in MIXERS.items():
        places = [place for place, layer in enumerate(layers) if layer.mixer == letter]
        yield sum(_depth(place, len(layers)) for place in places) / len(layers)
        yield from _options(spec.options, [layers[place].mixer_options for place in places[:1]])


def _operators(architecture: Architecture) -> Iterator[float]:
    layers = architecture.layers
    for name, spec in PROJECTION_OPERATORS.items():
        if name == "dense":
            continue
        found = [
            (place, role, item.options)
            for place, layer in enumerate(layers)
            for role, item in layer.projections.items()
            if item.name == name
        ]
        roles = [role for _, role, _ in found]
        yield from (roles.count(role) / len(layers) for role in PROJECTIONS)
        yield sum(_depth(place, len(layers)) for place, _, _ in found) / (len(layers) * len(PROJECTIONS))
        yield from _options(spec.options, [options for _, _, options in found])


def _windows(architecture: Architecture) -> Iterator[float]:
    sizes = [size for size in architecture.loop_windows if size]
    yield len(sizes) / architecture.loop_count
    yield fmean(map(math.log2, sizes)) if sizes else NOWHERE


def _options(options: Mapping[str, Option], chosen: list[Mapping[str, Any]]) -> Iterator[float]:
    """Means over the places where it was chosen; a column for each of several words."""
    for name, option in options.items():
        values = [item[name] for item in chosen]
        if option.kind is str:
            for word in option.choices:
                yield values.count(word) / len(values) if values else NOWHERE
        else:
            yield fmean(map(_number, values)) if values else NOWHERE


def _number(value: float) -> float:
    """Sizes and weights by their logarithm: they are chosen by factors."""
    return math.log(value) if value > 0 else -1.0


def _depth(place: int, layers: int) -> float:
    """From -1/2 for the lowest layer to 1/2 for the highest."""
    return place / max(layers - 1, 1) - 0.5
