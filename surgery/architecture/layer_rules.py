"""Layer rules: options of layers, such as a mixer's window. Ordered; the first match wins."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.config.options import Cursor, Option, read_options
from surgery.config.selector import select_layers

# widths of the feed-forward parts, in the section `ffn`
FFN = {
    "dim": Option(
        int, low=0, help="hidden width of the SwiGLU; 0: the layer has no feed-forward part", scales="width"
    )
}


@dataclass(frozen=True)
class LayerRule:
    """Assignment of `options` to `layers`, or to all layers."""

    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    layers: str | None = None

    @classmethod
    def read(cls, data: object, schema: Mapping[str, Option], cursor: Cursor) -> LayerRule:
        """Read a rule from a mapping; errors are added to the cursor's problems.

        Args:
            data: options of the schema, and `layers` or none.
            schema: the known options; the rule has those that are given.
            cursor: position of the data in its file.
        """
        given = cursor.mapping(data, ("layers", *schema))
        layers = read_selector(given.pop("layers", None), cursor.at("layers"))
        if not isinstance(data, dict):
            return cls()
        return cls(read_given(given, schema, cursor), layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which `read` builds an equal rule."""
        return dict(self.options) if self.layers is None else {"layers": self.layers, **self.options}


# options of a mixer in all layers, or by rules
LayerOptions = Mapping[str, Any] | tuple[LayerRule, ...]


def read_layer_rules(
    value: object, schema: Mapping[str, Option], depth: int | None, cursor: Cursor
) -> tuple[LayerRule, ...]:
    """Read a list of rules; errors are added to the cursor's problems, and give no rules.

    Args:
        value: the list.
        schema: options of a rule.
        depth: layers of the model; None if it is not known.
        cursor: position of the list in its file.
    """
    before = len(cursor.problems.entries)
    if not isinstance(value, list):
        cursor.problem(value, "must be a list of rules", "such as [{layers: '0-3', dim: 1024}]")
        return ()
    rules = tuple(LayerRule.read(item, schema, cursor.at(index)) for index, item in enumerate(value))
    for index, rule in enumerate(rules):
        if depth is not None and rule.layers is not None:
            try:
                select_layers(rule.layers, depth)
            except ValueError as error:
                cursor.at(index, "layers").problem(rule.layers, str(error))
    return rules if len(cursor.problems.entries) == before else ()


def read_given(data: object, schema: Mapping[str, Option], cursor: Cursor) -> dict[str, Any]:
    """Read the options of a user's mapping, without defaults; errors are added as problems."""
    given = cursor.mapping(data, schema)
    filled = read_options(given, schema, cursor)
    return {name: filled[name] for name in given if name in filled}


def read_selector(value: object, cursor: Cursor) -> str | None:
    """Read a layer selector as text; `select_layers` checks later that the layers exist."""
    if value is None or value == "all":
        return None
    if isinstance(value, str):
        return value
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        cursor.problem(value, "must be a list of layers or text such as '0-3,-1'")
        return None
    return ",".join(map(str, items))


def as_rules(options: LayerOptions) -> tuple[LayerRule, ...]:
    """Return a mixer's options as rules."""
    return options if isinstance(options, tuple) else (LayerRule(options),)


def deciding(rules: Sequence[LayerRule], depth: int, index: int) -> int | None:
    """Return the position of the rule for layer `index` of `depth`, or None."""
    for position, rule in enumerate(rules):
        if rule.layers is None or index in select_layers(rule.layers, depth):
            return position
    return None


def decided(rules: Sequence[LayerRule], depth: int, index: int) -> Mapping[str, Any]:
    """Return the options that the rules give layer `index` of `depth`."""
    position = deciding(rules, depth, index)
    return {} if position is None else rules[position].options


def check_matches(
    rules: Sequence[LayerRule], depth: int, candidates: Collection[int], what: str, cursor: Cursor
) -> None:
    """Add a problem for each rule that decides none of the layers `candidates`.

    Args:
        rules: the rules.
        depth: layers of the model.
        candidates: the layers that the rules are about.
        what: these layers in words, such as `W layer`.
        cursor: position of the rules in their file.
    """
    used = {deciding(rules, depth, index) for index in candidates}
    for position, rule in enumerate(rules):
        if position not in used:
            hint = "earlier rules take them, or they are not such layers" if candidates else "there is none"
            cursor.at(position).problem(rule.layers or "all", f"matches no {what}", hint)
