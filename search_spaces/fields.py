"""The fields of a `search:` section: how a value is read, and which distributions are supported.

Derived from surgery's registries, so that a new mixer or projection operator is searchable at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from surgery.architecture import MAX_DELTA_RANK, MAX_LOOPS, read_windows
from surgery.architecture.layout import PLACEMENTS
from surgery.config.backbone import OPTIONS, PROJECTIONS
from surgery.config.options import Option
from surgery.config.problems import nearest
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS

# in sampling order, on which the draws of a seed depend
BACKBONE_SIZES = ("num_layers", "dim", "ffn_dim", "num_heads", "num_kv_heads", "head_dim")

_FORMS: dict[type, tuple[str, ...]] = {
    int: ("choice", "range"),
    float: ("choice", "log"),
    str: ("choice",),
    bool: ("choice",),
}


@dataclass(frozen=True)
class Field:
    """One key under `search:`. `read` checks a single value and raises ValueError if it is invalid."""

    name: str
    forms: tuple[str, ...]
    read: Callable[[object], Any]
    help: str = ""

    @property
    def usage(self) -> str:
        """The supported distributions, as written in a file."""
        return " or ".join(EXAMPLES[form] for form in self.forms)


EXAMPLES = {
    "choice": "{choice: [A, B]}",
    "range": "{range: [LOW, HIGH]}",
    "log": "{log: [LOW, HIGH]}",
    "subset": "{subset: [A, B]}",
    "ratio": "{full: [0, 4], ...}",
}


def fields() -> dict[str, Field]:
    """Return every searchable field by name, in sampling order."""
    result = [_numeric(f"backbone.{size}", OPTIONS[size]) for size in BACKBONE_SIZES]
    result += [
        Field("layout", ("choice",), _read_layout, help="mixer letters, tiled over the depth"),
        Field("mixers.ratio", ("ratio",), _no_value, help="share of each mixer"),
        _numeric("mixers.placement", Option(str, choices=PLACEMENTS, help="placement of the first mixer")),
    ]
    for mixer in MIXERS.values():
        result += [_numeric(f"mixers.{mixer.word}.{name}", option) for name, option in mixer.options.items()]
    result.append(
        _numeric("loop.count", Option(int, low=1, high=MAX_LOOPS, help="number of passes through the stack"))
    )
    result.append(
        Field(
            "loop.windows", ("choice",), _read_schedule, help="attention window per pass in tokens, or none"
        )
    )
    result += [
        Field("loop.span", ("choice",), _read_selector, help="layers that the passes repeat, or all"),
        _numeric("loop.inject", Option(bool, help="later passes also see what the first one saw")),
        _numeric(
            "loop.delta_rank",
            Option(
                int,
                low=0,
                high=MAX_DELTA_RANK,
                help="rank of what later passes change in each projection; 0: nothing",
            ),
        ),
    ]
    for operator, spec in PROJECTION_OPERATORS.items():
        if not spec.options:
            continue
        result += [
            Field(
                f"{operator}.projections",
                ("subset", "choice"),
                read_projections,
                help="projections that use this operator",
            ),
            Field(f"{operator}.layers", ("choice",), _read_selector, help="layers the operator applies to"),
        ]
        result += [_numeric(f"{operator}.{name}", option) for name, option in spec.options.items()]
    return {field.name: field for field in result}


def unknown_field(name: str) -> tuple[str, str]:
    """Return (rule, hint) for a key that is not a field."""
    known = fields()
    parts = name.split(".")
    nested = [field for field in known if field.startswith(f"{name}.")]
    if nested:
        return "is not a field here", f"name the field in one key, such as {nested[0]}"
    if hint := nearest(name, known):
        return "is not a field here", hint
    group = [field for field in known if field.startswith(f"{parts[0]}.")]
    return "is not a field here", f"known: {', '.join(group or known)}"


def read_projections(value: object) -> tuple[str, ...]:
    """Read a list of projections, `all` or `none`; return the names in canonical order.

    Raises:
        ValueError: a name is not a projection.
    """
    if value == "all":
        return PROJECTIONS
    names = [] if value == "none" else value if isinstance(value, list) else [value]
    for name in names:
        if name not in PROJECTIONS:
            hint = nearest(str(name), PROJECTIONS)
            raise ValueError(
                f"{name!r} is not a projection ({', '.join(PROJECTIONS)}){'; ' + hint if hint else ''}"
            )
    return tuple(name for name in PROJECTIONS if name in names)


def _numeric(name: str, option: Option) -> Field:
    forms = _FORMS[option.kind]
    return Field(name, forms, option.read, option.help)


def _read_layout(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be mixer letters such as FFFF")
    for letter in dict.fromkeys(value):
        if letter not in MIXERS:
            raise ValueError(f"'{letter}' is not a mixer; mixers: {', '.join(MIXERS)}")
    return value


def _read_schedule(value: object) -> tuple[int | str, ...]:
    return tuple(size or "full" for size in read_windows(value))


def _read_selector(value: object) -> str:
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return ",".join(map(str, value))
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise ValueError("must be 'all' or layers such as '0-3,-1' or '1::2', in quotes")
    return value.replace(" ", "")


def _no_value(value: object) -> Any:
    raise ValueError("must be a mapping of mixers to shares")
