"""Designs made at one size and applied at another: ranks follow the width, windows the context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from surgery.architecture.architecture import Architecture
from surgery.architecture.layer_rules import FFN, LayerRule, deciding
from surgery.architecture.reading import DESIGNED_FOR, LOOP
from surgery.config.backbone import Backbone
from surgery.config.options import Cursor, Option, read_options
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS

STEP = 8  # scaled sizes from here on are multiples of it, as tensor cores prefer


@dataclass(frozen=True)
class DesignedFor:
    """Sizes at which a portable design was found: width of the residual stream, and tokens of its texts."""

    width: int
    context: int

    @classmethod
    def read(cls, value: object, cursor: Cursor) -> DesignedFor | None:
        """Read `designed_for` of a file; errors are added to the cursor's problems, and give None."""
        values = read_options(value, DESIGNED_FOR, cursor)
        return cls(values["dim"], values["context"]) if len(values) == len(DESIGNED_FOR) else None

    def ratios(self, backbone: Backbone) -> dict[str, float]:
        """Return the ratio of the backbone's sizes to these by the names of `Option.scales`."""
        return {
            "width": backbone.dim / self.width,
            "context": backbone.max_position_embeddings / self.context,
        }


def scaled(
    architecture: Architecture, designed: DesignedFor, backbone: Backbone
) -> tuple[Architecture, tuple[str, ...]]:
    """Return the architecture with the sizes that scale in the ratio of width or context, and each change."""
    ratios = designed.ratios(backbone)
    changes: list[str] = []
    rules = []
    for rule in architecture.rules:
        schema = PROJECTION_OPERATORS[rule.operator].options
        options = dict(
            _scaled(rule.options, schema, ratios, f"{' '.join(rule.match)}: {rule.operator}", changes)
        )
        rules.append(replace(rule, options=options))
    mixers = {**architecture.mixers}
    for letter in dict.fromkeys(architecture.layout):
        given = mixers.get(letter, {})
        if isinstance(given, tuple):
            mixers[letter] = _scaled_rules(architecture, letter, given, ratios, changes)
        else:
            mixers[letter] = _scaled_mixer(letter, given, ratios, changes)
    ffn = tuple(
        replace(rule, options=dict(_scaled(rule.options, FFN, ratios, "ffn", changes)))
        for rule in architecture.ffn
    )
    windows = architecture.loop_windows
    if windows:
        windows = tuple(_size(size, ratios["context"]) if size else size for size in windows)
        old = [size or "full" for size in architecture.loop_windows]
        new_sizes = [size or "full" for size in windows]
        changes += [f"loop: windows {old} -> {new_sizes}"] if old != new_sizes else []
    loop = dict(_scaled({"delta_rank": architecture.loop_delta_rank}, LOOP, ratios, "loop", changes))
    changed = replace(
        architecture, rules=tuple(rules), mixers=mixers, ffn=ffn, loop_windows=windows,
        loop_delta_rank=loop["delta_rank"],
    )  # fmt: skip
    return changed, tuple(dict.fromkeys(changes))


def _scaled_mixer(
    letter: str, given: Mapping[str, Any], ratios: Mapping[str, float], changes: list[str]
) -> dict[str, Any]:
    """Return the options that differ from a mixer's defaults at the new sizes; defaults scale too."""
    schema = MIXERS[letter].options
    options = {name: option.default for name, option in schema.items()} | dict(given)
    new = dict(_scaled(options, schema, ratios, letter, changes))
    return dict(given) | {name: value for name, value in new.items() if value != options[name]}


def _scaled_rules(
    architecture: Architecture,
    letter: str,
    rules: tuple[LayerRule, ...],
    ratios: Mapping[str, float],
    changes: list[str],
) -> tuple[LayerRule, ...]:
    """Return a mixer's rules at the new sizes, with one more for layers with defaults that change."""
    depth = len(architecture.layout)
    own = [index for index, other in enumerate(architecture.layout) if other == letter]
    new = [replace(rule, options=_scaled_mixer(letter, rule.options, ratios, changes)) for rule in rules]
    if any(deciding(rules, depth, index) is None for index in own):
        rest = _scaled_mixer(letter, {}, ratios, changes)
        new += [LayerRule(rest)] if rest else []
    return tuple(new)


def _scaled(
    options: Mapping[str, Any],
    schema: Mapping[str, Option],
    ratios: Mapping[str, float],
    where: str,
    changes: list[str],
) -> Iterator[tuple[str, Any]]:
    """Yield each option with its value at the new sizes, and add a phrase about each that changed."""
    for name, value in options.items():
        option = schema[name]
        new = _size(value, ratios[option.scales]) if option.scales and value else value
        if new != value:
            new = max(new, int(option.low or 1))
            changes.append(f"{where} {name} {value} -> {new}")
        yield name, new


def _size(value: int, ratio: float) -> int:
    size = value * ratio
    return STEP * round(size / STEP) if size >= STEP else max(1, round(size))
