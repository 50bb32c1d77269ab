"""Projection rules: the operator of each projection. Ordered; the first match wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surgery.architecture.layer_rules import read_selector
from surgery.config.backbone import PROJECTIONS
from surgery.config.options import Cursor, read_options
from surgery.config.problems import nearest
from surgery.projections import PROJECTION_OPERATORS


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
        layers = read_selector(given.get("layers"), cursor.at("layers"))
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
