"""An architecture: backbone, layout, projection rules and loop; immutable, read from and written to YAML."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from surgery.architecture.layout import shorten, shortest_period, tile
from surgery.architecture.rules import Rule, select_layers, write_layers
from surgery.config.backbone import FFN_PROJECTIONS, Backbone, canonical_rope_scaling
from surgery.config.options import Cursor, Option, read_options
from surgery.config.problems import Problems
from surgery.config.yaml_source import KeyPath, Source, load_yaml
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS

FIELDS = ("backbone", "layout", "mixers", "projections", "loop")
MAX_LOOPS = 64
_LOOP = {"count": Option(int, 1, low=1, high=MAX_LOOPS, help="times the stack is run")}
LOOP_WINDOW = Option(int, low=1, help="tokens that attention sees in a pass, itself included")
_SHORT_NAMES = {"gate": "g", "up": "u", "down": "d"}


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


@dataclass(frozen=True, eq=False)
class Architecture:
    """A complete, buildable model. Two spellings of the same model are equal and have the same hash."""

    backbone: Backbone
    layout: str = "F"
    mixers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    loop_count: int = 1
    loop_windows: tuple[int | None, ...] = ()  # tokens attention sees in each pass; None: all; (): all passes

    def __post_init__(self) -> None:
        assert len(self.loop_windows) in (0, self.loop_count), "checked where the architecture is read"
        object.__setattr__(self, "layout", tile(self.layout, self.backbone.num_layers))

    @classmethod
    def from_dict(
        cls,
        data: object,
        *,
        source: Source | None = None,
        path: KeyPath = (),
        backbone: Backbone | None = None,
    ) -> Architecture:
        """Build an architecture from plain data.

        Args:
            data: mapping with the keys `FIELDS`.
            source: parsed file of the data, for line numbers in messages.
            path: position of the data in that file.
            backbone: used if the data has none.

        Raises:
            UserError: lists every problem of the data with line, field, value and rule.
        """
        problems = Problems()
        cursor = Cursor(problems, source, path)
        architecture = _read(cls, data, cursor, backbone)
        name = source.name if source else "architecture"
        problems.raise_if_any(f"{name}: not a valid architecture")
        assert architecture is not None
        return architecture

    @classmethod
    def from_yaml(cls, path: str | Path, *, backbone: Backbone | None = None) -> Architecture:
        """Read an architecture file.

        Raises:
            UserError: unreadable, not YAML, or not a valid architecture.
        """
        source = load_yaml(path)
        return cls.from_dict(source.data, source=source, backbone=backbone)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which `from_dict` builds an equal architecture."""
        data: dict[str, Any] = {"backbone": self.backbone.to_dict(), "layout": self.layout}
        if any(self.mixers.values()):
            data["mixers"] = {letter: dict(options) for letter, options in self.mixers.items()}
        data["projections"] = [rule.to_dict() for rule in self.rules]
        data["loop"] = {"count": self.loop_count}
        if self.loop_windows:
            data["loop"]["windows"] = [size or "full" for size in self.loop_windows]
        return data

    def to_yaml(self, *, backbone: bool = True) -> str:
        """Return the YAML text; without the backbone it is a design for a model of any size."""
        import yaml

        data = self.to_dict()
        if not backbone:
            del data["backbone"]
            data["layout"] = shortest_period(self.layout)
        return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=110)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Physical layers from bottom to top with every rule applied; equal layers are the same object."""
        depth = self.backbone.num_layers
        selected = [select_layers(rule.layers, depth) for rule in self.rules]
        kinds: dict[tuple[str, tuple[bool, ...]], Layer] = {}
        layers = []
        for index, letter in enumerate(self.layout):
            applies = tuple(index in indices for indices in selected)
            if (letter, applies) not in kinds:
                rules = [rule for rule, used in zip(self.rules, applies, strict=True) if used]
                kinds[letter, applies] = self._layer(letter, rules)
            layers.append(kinds[letter, applies])
        return tuple(layers)

    @cached_property
    def kinds(self) -> tuple[tuple[Layer, int], ...]:
        """Distinct layers, each with its number of occurrences."""
        by_id = {id(layer): layer for layer in self.layers}
        return tuple((by_id[key], count) for key, count in Counter(map(id, self.layers)).items())

    @cached_property
    def figures(self) -> dict[str, int]:
        """Cache of computed costs by name (`surgery.architecture.costs`)."""
        return {}

    @cached_property
    def hash(self) -> str:
        """First 10 hex digits of the canonical form's SHA-256."""
        text = json.dumps(self.canonical(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def canonical(self) -> dict[str, Any]:
        """Return the model's canonical form: equal for all spellings, without options that have no effect."""
        backbone = self.backbone.to_dict()
        backbone.pop("max_position_embeddings", None)  # metadata of the export, not part of the model
        backbone["rope_scaling"] = canonical_rope_scaling(self.backbone.rope_scaling)
        kinds = {id(layer): self._canonical_layer(layer) for layer, _ in self.kinds}
        layers = [kinds[id(layer)] for layer in self.layers]
        canonical = {"backbone": backbone, "layers": layers, "loop": self.loop_count}
        if any(self.loop_windows) and any(MIXERS[layer.mixer].windowed for layer, _ in self.kinds):
            canonical["windows"] = list(self.loop_windows)
        return canonical

    def _canonical_layer(self, layer: Layer) -> dict[str, Any]:
        return {
            "mixer": layer.mixer,
            "options": MIXERS[layer.mixer].canonical(self.backbone, layer.mixer_options),
            "projections": {
                name: {"operator": item.name, **PROJECTION_OPERATORS[item.name].canonical(item.options)}
                for name, item in layer.projections.items()
            },
        }

    def window(self, loop: int) -> int | None:
        """Return the tokens that attention sees in this loop pass, including the token itself; None: all."""
        return self.loop_windows[loop] if self.loop_windows else None

    def pass_options(self, layer: Layer) -> list[Mapping[str, Any]]:
        """Return the effective options of a layer's mixer in each loop pass."""
        spec = MIXERS[layer.mixer]
        return [spec.in_pass(layer.mixer_options, self.window(loop)) for loop in range(self.loop_count)]

    @cached_property
    def line(self) -> str:
        """One-line summary, such as `FFFF·hdpl[qkv,gu] b8 r128·loop 2`."""
        groups: dict[tuple[str, str], dict[int, set[str]]] = {}
        for index, layer in enumerate(self.layers):
            for name, item in layer.projections.items():
                short = PROJECTION_OPERATORS[item.name].short(item.options)
                groups.setdefault((item.name, short), {}).setdefault(index, set()).add(name)
        parts = [shorten(self.layout)]
        for (operator, short), by_layer in groups.items():
            if operator == "dense":
                continue
            merged: dict[str, list[int]] = {}
            for index, names in by_layer.items():
                merged.setdefault(_projection_letters(names), []).append(index)
            selectors = {
                letters: write_layers(tuple(indices), len(self.layers)) for letters, indices in merged.items()
            }
            targets = " ".join(
                f"[{letters}]" + (f"@{selector}" if selector else "")
                for letters, selector in selectors.items()
            )
            parts.append(f"{operator}{targets} {short}".rstrip())
        if len(parts) == 1:
            parts.append("dense")
        if self.loop_count > 1:
            sizes = "-".join(str(size or "full") for size in self.loop_windows)
            parts.append(f"loop {self.loop_count}" + (f" w{sizes}" if sizes else ""))
        return "·".join(parts)

    def warnings(self) -> list[str]:
        """Return a warning per option that can have no effect, without duplicates."""
        operators = (
            f"{item.name}: {text}"
            for layer in self.layers
            for item in layer.projections.values()
            if (text := PROJECTION_OPERATORS[item.name].warning(item.options))
        )
        mixers = (
            f"{layer.mixer}: {text}"
            for layer in self.layers
            if (text := MIXERS[layer.mixer].warning(layer.mixer_options))
        )
        return list(dict.fromkeys((*operators, *mixers)))

    def rule_matches(self) -> list[int]:
        """Return the number of projections that each rule decides, over all layers."""
        counts = [0] * len(self.rules)
        for index, layer in enumerate(self.layers):
            for name in layer.projections:
                rule = self._rule(index, name)
                if rule is not None:
                    counts[self.rules.index(rule)] += 1
        return counts

    def __str__(self) -> str:
        return self.line

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def _rule(self, index: int, name: str) -> Rule | None:
        depth = self.backbone.num_layers
        candidates = (rule for rule in self.rules if name in rule.match)
        return next((rule for rule in candidates if index in select_layers(rule.layers, depth)), None)

    def _layer(self, letter: str, rules: Sequence[Rule]) -> Layer:
        """Build a layer with this mixer to which these rules apply, the first match first."""
        spec, backbone = MIXERS[letter], self.backbone
        defaults = {name: option.default for name, option in spec.options.items()}
        options = {**defaults, **self.mixers.get(letter, {})}
        sizes = spec.projections(backbone, options)
        sizes |= {name: backbone.sizes(name) for name in FFN_PROJECTIONS}
        first = {name: rule for rule in reversed(rules) for name in rule.match}
        projections = {}
        for name, (d_in, d_out) in sizes.items():
            rule = first.get(name)
            operator, chosen = (rule.operator, rule.options) if rule is not None else ("dense", {})
            projections[name] = Operator(operator, chosen, d_in, d_out, name in backbone.biases)
        return Layer(letter, options, projections)


def _projection_letters(names: set[str]) -> str:
    """Abbreviate {q, k, v, gate, up} to `qkv,gu`."""
    attention = "".join(name for name in "qkvo" if name in names)
    ffn = "".join(_SHORT_NAMES[name] for name in FFN_PROJECTIONS if name in names)
    return ",".join(part for part in (attention, ffn) if part)


def _read(
    cls: type[Architecture], data: object, cursor: Cursor, default: Backbone | None
) -> Architecture | None:
    given = cursor.mapping(data, FIELDS)
    backbone = default
    if "backbone" in given:
        backbone = Backbone.read(given["backbone"], cursor.at("backbone"))
    elif default is None:
        cursor.at("backbone").problem(None, "is missing", "give the sizes of the model")
    layout = _read_layout(given.get("layout", "F"), backbone, cursor.at("layout"))
    mixers = _read_mixers(given.get("mixers"), cursor.at("mixers"))
    rules = _read_rules(given.get("projections"), backbone, cursor.at("projections"))
    loop = _read_loop(given.get("loop"), cursor.at("loop"))
    if backbone is None or layout is None or mixers is None or rules is None:
        return None
    architecture = cls(backbone, layout, mixers, rules, *loop)
    check_fit(architecture, cursor)  # also if there are other problems: all are reported together
    return architecture


def check_fit(architecture: Architecture, cursor: Cursor) -> None:
    """Check rules between parts: operators and mixers fit their sizes, and every effective rule matches."""
    for letter in dict.fromkeys(architecture.layout):
        layer = architecture.layers[architecture.layout.index(letter)]
        misfit = MIXERS[letter].broken_rule(architecture.backbone, layer.mixer_options)
        if misfit is not None:
            option, text = misfit
            cursor.at("mixers", letter, option).problem(layer.mixer_options[option], text)
    seen: set[tuple[int, str]] = set()
    rules = architecture.rules
    for index, layer in enumerate(architecture.layers):
        for name, item in layer.projections.items():
            broken = PROJECTION_OPERATORS[item.name].broken_rule(item.d_in, item.d_out, item.options)
            rule = architecture._rule(index, name)
            if broken is None or rule is None:
                continue
            option, text = broken
            position = rules.index(rule)
            if (position, name) not in seen:
                seen.add((position, name))
                field = cursor.at("projections", position, option)
                field.problem(item.options[option], f"{text} (projection {name})")
    for position, (rule, count) in enumerate(zip(rules, architecture.rule_matches(), strict=True)):
        if count == 0 and rule.operator != "dense":
            hint = "an earlier rule takes them, or no mixer has them"
            cursor.at("projections", position).problem(" ".join(rule.match), "matches no projection", hint)


def _read_loop(value: object, cursor: Cursor) -> tuple[int, tuple[int | None, ...]]:
    """Return (number of passes, tokens seen in each); with problems, the defaults of the faulty fields."""
    given = cursor.mapping(value, ("count", "windows"))
    windows = given.pop("windows", None)
    count = read_options(given, _LOOP, cursor).get("count", 1)
    sizes: tuple[int | None, ...] = ()
    try:
        sizes = read_windows(windows)
        if sizes and len(sizes) != count:
            raise ValueError(f"has {len(sizes)} entries for {count} passes; give one for each")
    except ValueError as error:
        cursor.at("windows").problem(windows, str(error))
        sizes = ()
    return count, sizes


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


def _read_layout(value: object, backbone: Backbone | None, cursor: Cursor) -> str | None:
    before = len(cursor.problems.entries)
    if not isinstance(value, str) or not value:
        cursor.problem(value, "must be a string of mixer letters such as FFFF")
        return None
    for letter in dict.fromkeys(value):
        if letter not in MIXERS:
            cursor.problem(value, f"'{letter}' is not a mixer", f"mixers: {', '.join(MIXERS)}")
    if backbone is not None and len(value) > backbone.num_layers:
        rule = f"has {len(value)} letters for {backbone.num_layers} layers"
        cursor.problem(value, rule, "shorten it; a shorter one is tiled")
    return value if len(cursor.problems.entries) == before else None


def _read_mixers(value: object, cursor: Cursor) -> dict[str, dict[str, Any]] | None:
    before = len(cursor.problems.entries)
    result: dict[str, dict[str, Any]] = {}
    for letter, options in cursor.mapping(value, tuple(MIXERS)).items():
        schema = MIXERS[letter].options
        given = cursor.at(letter).mapping(options, tuple(schema))
        filled = read_options(given, schema, cursor.at(letter))
        result[letter] = {name: filled[name] for name in given if name in filled}
    return result if len(cursor.problems.entries) == before else None


def _read_rules(value: object, backbone: Backbone | None, cursor: Cursor) -> tuple[Rule, ...] | None:
    before = len(cursor.problems.entries)
    if value is None:
        return ()
    if not isinstance(value, list):
        example = "- {match: [gate, up], operator: hdpl, blocks: 8, rank: 128}"
        cursor.problem(value, "must be a list of rules", example)
        return None
    rules = []
    for position, item in enumerate(value):
        here = cursor.at(position)
        rule = Rule.read(item, here)
        if rule is None:
            continue
        rules.append(rule)
        if backbone is not None and rule.layers is not None:
            try:
                select_layers(rule.layers, backbone.num_layers)
            except ValueError as error:
                here.at("layers").problem(rule.layers, str(error))
    return tuple(rules) if len(cursor.problems.entries) == before else None
