"""Projection rules: the operator of each projection. Ordered; the first match wins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from surgery.config.backbone import PROJECTIONS
from surgery.config.options import Cursor, read_options
from surgery.config.problems import nearest
from surgery.projections import PROJECTION_OPERATORS

_PART = re.compile(r"(-?\d+)?(?:(-|:)(-?\d+)?(?::(\d+))?)?")


@dataclass(frozen=True)
class Rule:
    """Assignment of `operator` with `options` to the projections `match`, in `layers` or in all layers."""

    match: tuple[str, ...]
    operator: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    layers: str | None = None

    @classmethod
    def read(cls, data: object, cursor: Cursor) -> Rule | None:
        """Read a rule from a mapping; errors are added to the cursor's problems. None if there are any."""
        before = len(cursor.problems.entries)
        given = cursor.mapping(data)
        match = read_match(given.get("match"), cursor.at("match"))
        layers = _read_selector(given.get("layers"), cursor.at("layers"))
        operator = given.get("operator")
        spec = PROJECTION_OPERATORS.get(operator) if isinstance(operator, str) else None
        if spec is None:
            hint = nearest(str(operator), PROJECTION_OPERATORS)
            cursor.at("operator").problem(operator, f"must be one of {', '.join(PROJECTION_OPERATORS)}", hint)
            return None
        cursor.mapping(given, ("match", "operator", "layers", *spec.options))
        own = {key: value for key, value in given.items() if key in spec.options}
        options = read_options(own, spec.options, cursor)
        if len(cursor.problems.entries) > before:
            return None
        return cls(match, spec.name, options, layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which `read` builds an equal rule."""
        match: Any = "all" if self.match == PROJECTIONS else list(self.match)
        data: dict[str, Any] = {"match": match, "operator": self.operator, **self.options}
        return data if self.layers is None else {**data, "layers": self.layers}


def read_match(value: object, cursor: Cursor) -> tuple[str, ...]:
    """Read projection names, returned in canonical order; `all` means every one."""
    names = value if isinstance(value, list) else [value]
    if "all" in names:
        return PROJECTIONS
    for name in names:
        if name not in PROJECTIONS:
            hint = nearest(str(name), PROJECTIONS)
            cursor.problem(name, f"must be 'all' or a list out of {', '.join(PROJECTIONS)}", hint)
    if not names:
        cursor.problem(value, "must name at least one projection")
    return tuple(name for name in PROJECTIONS if name in names)


def _read_selector(value: object, cursor: Cursor) -> str | None:
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


@lru_cache(maxsize=4096)  # called for every projection of every layer
def select_layers(selector: str | None, depth: int) -> tuple[int, ...]:
    """Return the sorted, distinct layer indices of a selector: `0-3,7,-1`, or slices such as `1::2`.

    Raises:
        ValueError: not a selector, or a layer that does not exist.
    """
    if selector is None:
        return tuple(range(depth))
    chosen: set[int] = set()
    for part in selector.replace(" ", "").split(","):
        match = _PART.fullmatch(part)
        if not part or match is None:
            raise ValueError(f"'{part}' is not a layer, a range such as 0-3, or a slice such as 1::2")
        start, mark, stop, step = match.groups()
        if mark == ":":
            indices = range(depth)[
                int(start) if start else None : int(stop) if stop else None : int(step) if step else None
            ]
            chosen.update(indices)
            continue
        if start is None or (mark == "-" and stop is None) or step is not None:
            raise ValueError(f"'{part}' is not a layer, a range such as 0-3, or a slice such as 1::2")
        first = _index(int(start), depth)
        last = _index(int(stop), depth) if stop else first
        if last < first:
            raise ValueError(f"'{part}' ends before it starts")
        chosen.update(range(first, last + 1))
    if not chosen:
        raise ValueError(f"'{selector}' selects no layer of {depth}")
    return tuple(sorted(chosen))


def write_layers(layers: tuple[int, ...], depth: int) -> str | None:
    """Return a short selector of these layers: None for all, `1::2` if evenly spaced, else `0-3,7`."""
    if len(layers) == depth:
        return None
    step = layers[1] - layers[0] if len(layers) > 2 else 1
    if step > 1 and layers == tuple(range(layers[0], layers[-1] + 1, step)):
        stop = "" if layers[-1] + step >= depth else layers[-1] + 1
        return f"{layers[0]}:{stop}:{step}"
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _index(layer: int, depth: int) -> int:
    if not -depth <= layer < depth:
        raise ValueError(f"layer {layer} does not exist, the stack has {depth} (0 to {depth - 1})")
    return layer % depth
