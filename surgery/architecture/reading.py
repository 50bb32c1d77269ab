"""Reading an architecture from plain data: its fields one by one, then whether they fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from surgery.architecture.layer_rules import (
    FFN,
    LayerOptions,
    LayerRule,
    check_matches,
    deciding,
    read_given,
    read_layer_rules,
)
from surgery.architecture.layers import Layer, count_matches, deciding_rule
from surgery.architecture.rules import Rule
from surgery.config.backbone import Backbone
from surgery.config.options import Cursor, Option, read_options
from surgery.config.selector import select_layers, select_span
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS

FIELDS = ("backbone", "layout", "mixers", "ffn", "projections", "loop", "designed_for")
DESIGNED_FOR = {  # of portable designs; not part of the architecture
    "dim": Option(int, low=1, help="width of the residual stream of the models that the design was tried on"),
    "context": Option(int, low=1, help="tokens of the sequences that it was tried on"),
}
MAX_LOOPS = 64
MAX_DELTA_RANK = 4096
LOOP = {
    "count": Option(int, 1, low=1, high=MAX_LOOPS, help="times the span is run"),
    "inject": Option(bool, False, help="later passes also see what the first one saw"),
    "delta_rank": Option(
        int,
        0,
        low=0,
        high=MAX_DELTA_RANK,
        scales="width",
        help="rank of what later passes change in a projection; 0: nothing",
    ),
}
LOOP_WINDOW = Option(int, low=1, help="tokens that attention sees in a pass, itself included")


class Parts(NamedTuple):
    """Fields of an `Architecture`, each valid by itself, in the order of its constructor."""

    backbone: Backbone
    layout: str
    mixers: dict[str, LayerOptions]
    rules: tuple[Rule, ...]
    loop_count: int
    loop_windows: tuple[int | None, ...]
    ffn: tuple[LayerRule, ...]
    loop_span: str | None
    loop_inject: bool
    loop_delta_rank: int


def read_parts(data: object, cursor: Cursor, default: Backbone | None) -> Parts | None:
    """Read the fields of an architecture; errors are added to the cursor's problems.

    Args:
        data: mapping with the keys `FIELDS`.
        cursor: position of the data in its file.
        default: backbone, used if the data has none.

    Returns:
        The fields, so that those that can be read are checked together even if others can't: a faulty layout,
        option, rule or loop is left out. None without a backbone.
    """
    given = cursor.mapping(data, FIELDS)
    backbone = default
    if "backbone" in given:
        backbone = Backbone.read(given["backbone"], cursor.at("backbone"))
    elif default is None:
        cursor.at("backbone").problem(None, "is missing", "give the sizes of the model")
    layout = _read_layout(given.get("layout", "F"), backbone, cursor.at("layout"))
    depth = backbone.num_layers if backbone is not None else None
    mixers = _read_mixers(given.get("mixers"), depth, cursor.at("mixers"))
    ffn = given.get("ffn")
    widths = read_layer_rules(ffn, FFN, depth, cursor.at("ffn")) if ffn is not None else ()
    rules = _read_rules(given.get("projections"), backbone, cursor.at("projections"))
    count, windows, span, inject, delta_rank = _read_loop(given.get("loop"), depth, cursor.at("loop"))
    if "designed_for" in given:
        read_options(given["designed_for"], DESIGNED_FOR, cursor.at("designed_for"))
    if backbone is None:
        return None
    return Parts(backbone, layout, mixers, rules, count, windows, widths, span, inject, delta_rank)


class Resolved(Protocol):
    """The fields of an `Architecture` that are checked together."""

    @property
    def backbone(self) -> Backbone:
        """Sizes of the model."""

    @property
    def mixers(self) -> Mapping[str, LayerOptions]:
        """Options of mixers."""

    @property
    def ffn(self) -> Sequence[LayerRule]:
        """Rules for the width of feed-forward parts."""

    @property
    def rules(self) -> Sequence[Rule]:
        """Projection rules."""

    @property
    def layers(self) -> Sequence[Layer]:
        """Physical layers with every rule applied."""


def check_fit(parts: Resolved, cursor: Cursor) -> None:
    """Check rules between parts: operators and mixers fit their sizes, and every effective rule matches."""
    layers, rules = parts.layers, parts.rules
    _check_mixers(parts, cursor)
    check_matches(parts.ffn, len(layers), range(len(layers)), "layer", cursor.at("ffn"))
    seen: set[tuple[int, str]] = set()
    for index, layer in enumerate(layers):
        for name, item in layer.projections.items():
            broken = PROJECTION_OPERATORS[item.name].broken_rule(item.d_in, item.d_out, item.options)
            position = deciding_rule(rules, len(layers), index, name)
            if broken is None or position is None:
                continue
            option, text = broken
            if (position, name) not in seen:
                seen.add((position, name))
                field = cursor.at("projections", position, option)
                field.problem(item.options[option], f"{text} (projection {name})")
    for position, (rule, count) in enumerate(zip(rules, count_matches(rules, layers), strict=True)):
        if count == 0 and rule.operator != "dense":
            hint = "an earlier rule takes them, or no mixer has them"
            cursor.at("projections", position).problem(" ".join(rule.match), "matches no projection", hint)


def _check_mixers(parts: Resolved, cursor: Cursor) -> None:
    """Check that the options of every mixer fit the backbone, and that every rule about options matches."""
    layers, depth = parts.layers, len(parts.layers)
    seen: set[tuple[str, str, int | None]] = set()
    for index, layer in enumerate(layers):
        misfit = MIXERS[layer.mixer].broken_rule(parts.backbone, layer.mixer_options)
        if misfit is None:
            continue
        option, text = misfit
        given = parts.mixers.get(layer.mixer, {})
        position = deciding(given, depth, index) if isinstance(given, tuple) else None
        if (layer.mixer, option, position) not in seen:
            seen.add((layer.mixer, option, position))
            rule = () if position is None else (position,)
            cursor.at("mixers", layer.mixer, *rule, option).problem(layer.mixer_options[option], text)
    unread = any(item.field == cursor.at("layout").name for item in cursor.problems.entries)
    for letter, given in parts.mixers.items():
        if isinstance(given, tuple) and not unread:
            own = [index for index, layer in enumerate(layers) if layer.mixer == letter]
            check_matches(given, depth, own, f"{letter} layer", cursor.at("mixers", letter))


def _read_loop(
    value: object, depth: int | None, cursor: Cursor
) -> tuple[int, tuple[int | None, ...], str | None, bool, int]:
    """Return (number of passes, tokens seen in each, span, inject, rank); of faulty fields the defaults."""
    given = cursor.mapping(value, ("count", "windows", "span", "inject", "delta_rank"))
    windows, span = given.pop("windows", None), given.pop("span", None)
    options = read_options(given, LOOP, cursor)
    count = options.get("count", 1)
    sizes: tuple[int | None, ...] = ()
    try:
        sizes = read_windows(windows)
        if sizes and len(sizes) != count:
            raise ValueError(f"has {len(sizes)} entries for {count} passes; give one for each")
    except ValueError as error:
        cursor.at("windows").problem(windows, str(error))
        sizes = ()
    layers = None if span in (None, "all") else str(span)
    try:
        if layers is not None and depth is not None:
            select_span(layers, depth)
    except ValueError as error:
        cursor.at("span").problem(span, str(error), "the first and the last layer that repeat, such as 2-5")
        layers = None
    return count, sizes, layers, options.get("inject", False), options.get("delta_rank", 0)


def read_windows(value: object) -> tuple[int | None, ...]:
    """Parse `[128, 256, 512, full]` or `none` as the tokens that attention sees in each pass, None for all.

    Raises:
        ValueError: not such a list; the message gives the expected form.
    """
    if value is None or value == "none" or value == []:
        return ()
    if not isinstance(value, list):
        raise ValueError("must be a list such as [128, 256, 512, full]")
    return tuple(None if item == "full" else int(LOOP_WINDOW.read(item)) for item in value)


def _read_layout(value: object, backbone: Backbone | None, cursor: Cursor) -> str:
    """Return the layout; with problems, full attention."""
    before = len(cursor.problems.entries)
    if not isinstance(value, str) or not value:
        cursor.problem(value, "must be a string of mixer letters such as FFFF")
        return "F"
    for letter in dict.fromkeys(value):
        if letter not in MIXERS:
            cursor.problem(value, f"'{letter}' is not a mixer", f"mixers: {', '.join(MIXERS)}")
    if backbone is not None and len(value) > backbone.num_layers:
        rule = f"has {len(value)} letters for {backbone.num_layers} layers"
        cursor.problem(value, rule, "shorten it; a shorter one is tiled")
    return value if len(cursor.problems.entries) == before else "F"


def _read_mixers(value: object, depth: int | None, cursor: Cursor) -> dict[str, LayerOptions]:
    """Return the options of each letter that can be read."""
    result: dict[str, LayerOptions] = {}
    for letter, options in cursor.mapping(value, tuple(MIXERS)).items():
        schema, here = MIXERS[letter].options, cursor.at(letter)
        if isinstance(options, list):
            result[letter] = read_layer_rules(options, schema, depth, here)
        else:
            result[letter] = read_given(options, schema, here)
    return result


def _read_rules(value: object, backbone: Backbone | None, cursor: Cursor) -> tuple[Rule, ...]:
    """Return the rules; a faulty one matches nothing, and one whose layers don't exist applies to all."""
    if value is None:
        return ()
    if not isinstance(value, list):
        example = "- {match: [gate, up], operator: hdpl, blocks: 8, rank: 128}"
        cursor.problem(value, "must be a list of rules", example)
        return ()
    rules = []
    for position, item in enumerate(value):
        here = cursor.at(position)
        rule = Rule.read(item, here)
        if rule is not None and backbone is not None and rule.layers is not None:
            try:
                select_layers(rule.layers, backbone.num_layers)
            except ValueError as error:
                here.at("layers").problem(rule.layers, str(error))
                rule = replace(rule, layers=None)
        rules.append(rule or Rule((), "dense"))  # keeps the positions of the others
    return tuple(rules)
