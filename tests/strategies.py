"""Hypothesis strategies: small random architectures, and other spellings of the same one. Free of torch."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from hypothesis import strategies as st

from surgery.architecture import Architecture
from surgery.architecture.layout import tile
from surgery.config.backbone import FFN_PROJECTIONS, PROJECTIONS, Backbone
from surgery.config.options import REQUIRED, Cursor, Option
from surgery.config.problems import Problems
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS

SMALL = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12)


def option_values(option: Option) -> tuple[Any, ...]:
    """A few allowed values of an option, its default among them."""
    if option.kind is bool:
        return (False, True)
    if option.kind is str:
        return option.choices or ("text",)
    low = option.low if option.low is not None else -1
    high = option.high if option.high is not None else float("inf")
    numbers: list[Any] = [low, *SMALL] if option.kind is int else [low, 0.0, 0.001, 0.25, 1.0, 2.0]
    if option.default is not REQUIRED and option.default is not None:
        numbers.append(option.default)
    return tuple(dict.fromkeys(option.kind(number) for number in numbers if low <= number <= high))


MANY = 4000


def option_sets(schema: Mapping[str, Option]) -> list[dict[str, Any]]:
    """Combinations of those values: a new operator or mixer is tried by its schema alone. All of them, or,
    where they are many, the same number of evenly mixed ones, each value of each option among them."""
    values = [option_values(option) for option in schema.values()]
    whole = prod(map(len, values))
    if whole <= MANY:
        return [dict(zip(schema, chosen, strict=True)) for chosen in itertools.product(*values)]
    source = random.Random(0)
    columns = []
    for column in values:
        repeated = list(column) * (MANY // len(column) + 1)
        source.shuffle(repeated)
        columns.append(repeated[:MANY])
    return [dict(zip(schema, row, strict=True)) for row in zip(*columns, strict=True)]


def mixer_options(letter: str, backbone: Backbone) -> list[dict[str, Any]]:
    """Options of a mixer that fit this backbone."""
    spec = MIXERS[letter]
    return [options for options in option_sets(spec.options) if not spec.broken_rule(backbone, options)]


def operator_options(name: str, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Options of a projection operator that fit every (d_in, d_out)."""
    spec = PROJECTION_OPERATORS[name]
    return [
        options for options in option_sets(spec.options)
        if not any(spec.broken_rule(d_in, d_out, options) for d_in, d_out in sizes)
    ]  # fmt: skip


def read_backbone(data: object) -> Backbone:
    problems = Problems()
    backbone = Backbone.read(data, Cursor(problems))
    problems.raise_if_any("backbone of a test")
    assert backbone is not None
    return backbone


ROPE_SCALINGS = (
    None,
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
)  # fmt: skip


@st.composite
def backbones(draw: st.DrawFn, max_layers: int = 4) -> dict[str, Any]:
    """Sizes as a file gives them: odd widths, kv heads 1, head_dim apart from dim / heads, biases, ties."""
    kv_heads = draw(st.integers(1, 3))
    biases = st.lists(st.sampled_from(PROJECTIONS), unique=True)
    data = {
        "vocab_size": draw(st.integers(2, 40)),
        "dim": draw(st.integers(1, 24)),
        "num_layers": draw(st.integers(1, max_layers)),
        "num_heads": kv_heads * draw(st.integers(1, 3)),
        "num_kv_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(1, 6)),
        "ffn_dim": draw(st.integers(1, 30)),
        "rope_theta": draw(st.sampled_from([100.0, 10000.0, 500000.0])),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        "tie_embeddings": draw(st.booleans()),
        **draw(st.sampled_from([{}, {"qk_norm": True}, {"qk_norm": True, "joint_qk_norm": True}])),
        "post_norm": draw(st.booleans()),
        "no_rope_layers": draw(st.sampled_from(["", "0", "::2"])),
        "biases": draw(st.just([]) | biases),
        "rope_scaling": draw(st.sampled_from(ROPE_SCALINGS)),
    }
    # no draw of its own: as in OLMo-Hybrid, a layer may lack both
    return {**data, "pre_norm_layers": data["no_rope_layers"] if data["post_norm"] else ""}


def sizes_of(
    data: Mapping[str, Any], layout: str, mixers: Mapping[str, Any], ffn: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """(inputs, outputs) of each projection, layer by layer. Layers of rules are lists of indices."""
    backbone = read_backbone(data)
    result = []
    for index in range(backbone.num_layers):
        letter = layout[index % len(layout)]
        spec = MIXERS[letter]
        given = mixers.get(letter, {})
        own = _first(given, index) if isinstance(given, list) else given
        options = {name: item.default for name, item in spec.options.items()} | own
        width = _first(ffn, index).get("dim", backbone.ffn_dim)
        sizes = spec.projections(backbone, {name: options[name] for name in spec.options})
        names = FFN_PROJECTIONS if width else ()
        result.append(sizes | {name: replace(backbone, ffn_dim=width).sizes(name) for name in names})
    return result


def _first(rules: Sequence[Mapping[str, Any]], index: int) -> dict[str, Any]:
    return dict(next((rule for rule in rules if index in rule.get("layers", (index,))), {}))


@st.composite
def rules_for(
    draw: st.DrawFn, indices: Sequence[int], options: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rules that give these layers options; each decides at least one of them."""
    first = draw(st.lists(st.sampled_from(indices), min_size=1, unique=True))
    rules = [{"layers": first, **draw(st.sampled_from(options))}]
    if len(first) < len(indices) and draw(st.booleans()):
        rules.append(dict(draw(st.sampled_from(options))))
    return rules


@st.composite
def architecture_data(draw: st.DrawFn, max_layers: int = 4, max_loops: int = 3) -> dict[str, Any]:
    """An architecture file as plain data; always valid."""
    backbone = draw(backbones(max_layers))
    depth = backbone["num_layers"]
    sets = {letter: mixer_options(letter, read_backbone(backbone)) for letter in sorted(MIXERS)}
    fit = sorted(letter for letter in sets if sets[letter])
    layout = draw(st.text(st.sampled_from(fit), min_size=1, max_size=depth))
    mixers = {
        letter: draw(st.sampled_from(sets[letter]))
        for letter in draw(st.lists(st.sampled_from(fit), unique=True))
    }
    for letter in sorted(set(tile(layout, depth))):
        if draw(st.integers(0, 3)) == 0:
            own = [index for index, other in enumerate(tile(layout, depth)) if other == letter]
            mixers[letter] = draw(rules_for(own, sets[letter]))
    widths = [{"dim": width} for width in (0, 1, 7, backbone["ffn_dim"])]
    ffn = draw(st.just([]) | rules_for(range(depth), widths))
    sizes = sizes_of(backbone, layout, mixers, ffn)
    free = {(index, name) for index, layer in enumerate(sizes) for name in layer}
    rules = []
    for _ in range(draw(st.integers(0, 3))):
        match = draw(st.lists(st.sampled_from(PROJECTIONS), min_size=1, unique=True))
        layers = draw(st.none() | st.lists(st.integers(0, depth - 1), min_size=1, unique=True))
        taken = {
            (index, name) for index, name in free
            if name in match and (layers is None or index in layers)
        }  # fmt: skip
        operator = draw(st.sampled_from(sorted(PROJECTION_OPERATORS)))
        fitting = operator_options(operator, sorted({sizes[index][name] for index, name in taken}))
        if not taken or not fitting:
            continue  # a rule that decides nothing is an error
        free -= taken
        rule = {"match": match, "operator": operator, **draw(st.sampled_from(fitting))}
        rules.append(rule if layers is None else {**rule, "layers": layers})
    return {
        "backbone": backbone, "layout": layout, "mixers": mixers, "ffn": ffn, "projections": rules,
        "loop": draw(loops(max_loops, depth)),
    }  # fmt: skip


@st.composite
def loops(draw: st.DrawFn, most: int, depth: int) -> dict[str, Any]:
    """Passes, perhaps of a span, what attention sees in each, and what later ones see again or change."""
    count = draw(st.integers(1, most))
    window = st.sampled_from(["full", 1, 2, 5, 64])
    windows = draw(st.none() | st.lists(window, min_size=count, max_size=count))
    data: dict[str, Any] = {"count": count} if windows is None else {"count": count, "windows": windows}
    if draw(st.booleans()):
        first = draw(st.integers(0, depth - 1))
        data["span"] = f"{first}-{draw(st.integers(first, depth - 1))}"
    if draw(st.booleans()):
        data["delta_rank"] = draw(st.integers(1, 4))
    return {**data, "inject": True} if draw(st.booleans()) else data


def architectures(max_layers: int = 4, max_loops: int = 3) -> st.SearchStrategy[Architecture]:
    return architecture_data(max_layers, max_loops).map(Architecture.from_dict)


@st.composite
def respellings(draw: st.DrawFn, arch: Architecture) -> dict[str, Any]:
    """Another way to write the same model."""
    backbone = {**arch.backbone.to_dict(), "max_position_embeddings": draw(st.integers(1, 9999))}
    backbone["biases"] = draw(st.permutations(arch.backbone.biases))
    depth = arch.backbone.num_layers
    mixers: dict[str, Any] = {}
    for letter in sorted(set(arch.layout)):
        own = [(index, layer) for index, layer in enumerate(arch.layers) if layer.mixer == letter]
        if all(layer.mixer_options == own[0][1].mixer_options for _, layer in own) and draw(st.booleans()):
            mixers[letter] = dict(own[0][1].mixer_options)
        else:
            mixers[letter] = [{"layers": index, **layer.mixer_options} for index, layer in own]
    ffn = [{"layers": str(index), "dim": layer.ffn_dim} for index, layer in enumerate(arch.layers)]
    if draw(st.booleans()):
        ffn = [rule for rule in ffn if rule["dim"] != arch.backbone.ffn_dim]
    else:
        backbone["ffn_dim"] = draw(st.integers(1, 30))
    rules: list[dict[str, Any]] = []
    for index, layer in enumerate(arch.layers):
        for name, item in layer.projections.items():
            if item.name == "dense" and draw(st.booleans()):
                continue  # what no rule takes is dense
            spellings = [index, [index], str(index), index - depth, f"{index}:{index + 1}"]
            where: Any = draw(st.sampled_from(spellings))
            rules.append({"match": [name], "operator": item.name, **item.options, "layers": where})
    rules = draw(st.permutations(rules))
    if draw(st.booleans()):
        rules = [*rules, {"match": "all", "operator": "dense"}]
    periods = [n for n in range(1, depth + 1) if tile(arch.layout[:n], depth) == arch.layout]
    layout = arch.layout[: draw(st.sampled_from(periods))]
    return {
        "backbone": backbone, "layout": layout, "mixers": mixers, "ffn": ffn, "projections": rules,
        "loop": arch.to_dict()["loop"],
    }  # fmt: skip
