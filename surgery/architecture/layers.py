"""The physical layers of an architecture, with every option and projection rule resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from surgery.architecture.layer_rules import LayerOptions, LayerRule, as_rules, decided
from surgery.architecture.rules import Rule
from surgery.config.backbone import FFN_PROJECTIONS, Backbone
from surgery.config.selector import select_layers
from surgery.mixers import MIXERS


@dataclass(frozen=True)
class Operator:
    """Operator of one projection in one layer."""

    name: str
    options: Mapping[str, Any]
    d_in: int
    d_out: int
    bias: bool


@dataclass(frozen=True)
class Layer:
    """One physical layer with all options and rules resolved."""

    mixer: str
    mixer_options: Mapping[str, Any]
    projections: Mapping[str, Operator]
    rotary: bool = True  # whether queries and keys are rotated by position
    post_norm: bool = False  # whether norms stand after mixer and SwiGLU instead of before

    @property
    def ffn_dim(self) -> int:
        """Hidden width of the feed-forward part; 0 if the layer has none."""
        return self.projections["gate"].d_out if "gate" in self.projections else 0


def resolve_layers(
    backbone: Backbone,
    layout: str,
    mixers: Mapping[str, LayerOptions],
    rules: Sequence[Rule],
    ffn: Sequence[LayerRule] = (),
) -> tuple[Layer, ...]:
    """Return the layers from bottom to top; equal layers are the same object.

    Args:
        backbone: sizes of the model.
        layout: mixer letter of every layer.
        mixers: options of each letter that differ from its defaults, in all layers or by rules.
        rules: projection rules, the first match wins.
        ffn: rules for the width of the feed-forward part; layers without one have the backbone's.
    """
    depth = len(layout)
    selected = [select_layers(rule.layers, depth) for rule in rules]
    unrotated, normed_after = backbone.layers_without_rope(depth), backbone.layers_with_post_norm(depth)
    of_letter = {letter: as_rules(options) for letter, options in mixers.items()}
    kinds: dict[tuple[Any, ...], Layer] = {}
    layers = []
    for index, letter in enumerate(layout):
        rotary, post_norm = index not in unrotated, index in normed_after
        applies = tuple(index in indices for indices in selected)
        options = decided(of_letter.get(letter, ()), depth, index)
        width = decided(ffn, depth, index).get("dim", backbone.ffn_dim)
        kind = (letter, tuple(sorted(options.items())), width, rotary, post_norm, applies)
        if kind not in kinds:
            own = [rule for rule, used in zip(rules, applies, strict=True) if used]
            layer = _resolve(replace(backbone, ffn_dim=width), letter, options, own)
            kinds[kind] = replace(layer, rotary=rotary, post_norm=post_norm)
        layers.append(kinds[kind])
    return tuple(layers)


def deciding_rule(rules: Sequence[Rule], depth: int, index: int, name: str) -> int | None:
    """Return the position of the rule for the projection `name` of layer `index` of `depth`, or None."""
    for position, rule in enumerate(rules):
        if name in rule.match and index in select_layers(rule.layers, depth):
            return position
    return None


def count_matches(rules: Sequence[Rule], layers: Sequence[Layer]) -> list[int]:
    """Return the number of projections that each rule decides, over all layers."""
    counts = [0] * len(rules)
    for index, layer in enumerate(layers):
        for name in layer.projections:
            position = deciding_rule(rules, len(layers), index, name)
            if position is not None:
                counts[position] += 1
    return counts


def _resolve(backbone: Backbone, letter: str, options: Mapping[str, Any], rules: Sequence[Rule]) -> Layer:
    """Build a layer with this mixer, and the backbone's feed-forward part, to which these rules apply.

    The first rule that matches comes first.
    """
    spec = MIXERS[letter]
    options = {name: option.default for name, option in spec.options.items()} | dict(options)
    sizes = spec.projections(backbone, options)
    if backbone.ffn_dim:
        sizes |= {name: backbone.sizes(name) for name in FFN_PROJECTIONS}
    first = {name: rule for rule in reversed(rules) for name in rule.match}
    projections = {}
    for name, (d_in, d_out) in sizes.items():
        rule = first.get(name)
        operator, chosen = (rule.operator, rule.options) if rule is not None else ("dense", {})
        projections[name] = Operator(operator, chosen, d_in, d_out, name in backbone.biases)
    return Layer(letter, options, projections)
