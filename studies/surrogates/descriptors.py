"""Descriptors of an architecture from which its loss is predicted: mixers, loops, projections, size."""

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

SUMMARY = (
    len(MIXERS) + 3
)  # main descriptors, the first ones; those after them are many, and most have no effect
NOWHERE = math.nan  # an option of what the architecture does not have


def features(architecture: Architecture) -> tuple[float, ...]:
    """Return the descriptors of an architecture.

    First SUMMARY main ones: shares of the layers by mixer, log of how often a layer runs, share of replaced
    projections, log of the parameters. Then every choice: the mean depth and the options of each mixer and
    operator, NaN for options of those that the architecture does not have.
    """
    layout = architecture.layout
    operators = [item.name for layer in architecture.layers for item in layer.projections.values()]
    return (
        *(layout.count(letter) / len(layout) for letter in MIXERS),
        math.log(architecture.depth / architecture.backbone.num_layers),
        sum(name != "dense" for name in operators) / len(operators),
        math.log(params_nonembedding(architecture)),
        *_mixers(architecture),
        *_operators(architecture),
        _number(fmean(layer.ffn_dim for layer in architecture.layers)),
        *_windows(architecture),
    )


def _mixers(architecture: Architecture) -> Iterator[float]:
    layers = architecture.layers
    for letter, spec in MIXERS.items():
        used = [index for index, layer in enumerate(layers) if layer.mixer == letter]
        yield sum(_depth(index, len(layers)) for index in used) / len(layers)
        options = [layers[index].mixer_options for index in used]
        same = all(other == options[0] for other in options)
        yield from _options(spec.options, options[:1] if same else options)


def _operators(architecture: Architecture) -> Iterator[float]:
    layers = architecture.layers
    for name, spec in PROJECTION_OPERATORS.items():
        if name == "dense":
            continue
        uses = [
            (index, role, item.options)
            for index, layer in enumerate(layers)
            for role, item in layer.projections.items()
            if item.name == name
        ]
        roles = [role for _, role, _ in uses]
        yield from (roles.count(role) / len(layers) for role in PROJECTIONS)
        yield sum(_depth(index, len(layers)) for index, _, _ in uses) / (len(layers) * len(PROJECTIONS))
        yield from _options(spec.options, [options for _, _, options in uses])


def _windows(architecture: Architecture) -> Iterator[float]:
    sizes = [size for size in architecture.loop_windows if size]
    yield len(sizes) / architecture.loop_count
    yield fmean(map(math.log2, sizes)) if sizes else NOWHERE


def _options(options: Mapping[str, Option], chosen: list[Mapping[str, Any]]) -> Iterator[float]:
    """Yield the mean of each option over its uses; for a choice among words, the share of each word."""
    for name, option in options.items():
        values = [item[name] for item in chosen]
        if option.kind is str:
            for word in option.choices:
                yield values.count(word) / len(values) if values else NOWHERE
        else:
            yield fmean(map(_number, values)) if values else NOWHERE


def _number(value: float) -> float:
    """Return the logarithm of a size or weight, since they are chosen by factors; -1 for 0."""
    return math.log(value) if value > 0 else -1.0


def _depth(index: int, layers: int) -> float:
    """Return -1/2 for the lowest layer to 1/2 for the highest."""
    return index / max(layers - 1, 1) - 0.5
