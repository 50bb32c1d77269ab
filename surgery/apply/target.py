"""The target architecture of a surgery, completed with the model's backbone, and its folded layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from surgery.apply.fit import check_operators
from surgery.architecture import Architecture
from surgery.architecture.layout import shortest_period
from surgery.architecture.scaling import DesignedFor, scaled
from surgery.config.backbone import Backbone
from surgery.config.options import Cursor
from surgery.config.problems import Problem, Problems, UserError
from surgery.config.yaml_source import Source

FOLDS = ("average", "first")
_OTHER_SIZE = "the architecture's backbone is not the model's"
_PICKED = re.compile(r"# #(\d+)\b.* of study (\S+): ")  # the first line of what nas pick writes
_FREE = (
    "num_layers",
    "max_position_embeddings",
)  # folding changes the first; the second is always the model's


def read_architecture(
    given: Source | Mapping[str, Any] | Architecture, model: Architecture
) -> tuple[Architecture, tuple[str, ...]]:
    """Read the architecture; what it leaves out of backbone, layout and mixers is the model's.

    Options of a mixer that it leaves out altogether are defaults if it has a layout and sizes: its own, or
    those that it is designed for.

    Returns:
        The architecture, and each size of it that was scaled from those that the file is designed for.

    Raises:
        UserError: the architecture is invalid, or its backbone differs from the model's (all fields listed).
    """
    backbone = model.backbone
    source: Source | None = None
    data: Any
    if isinstance(given, Architecture):
        data = given.to_dict()
    elif isinstance(given, Source):
        source, data = given, given.data
    else:
        data = dict(given)
    if isinstance(data, dict):
        own = data.get("backbone")
        if own is None or isinstance(own, dict):
            depth = (own or {}).get("num_layers")
            folded = backbone.first_layers(depth) if type(depth) is int and depth > 0 else backbone
            data = {**data, "backbone": {**folded.to_dict(), **(own or {})}}
        mixers = data.get("mixers") or {}
        sized = "designed_for" in data or (isinstance(own, dict) and "dim" in own)
        if isinstance(mixers, dict) and not (sized and data.get("layout")):
            data = {**data, "mixers": {**model.to_dict().get("mixers", {}), **mixers}}
        if data.get("layout") is None:
            data = {**data, "layout": shortest_period(model.layout)}
    problems = Problems()
    data = _with_sizes_of(backbone, data, source, problems)
    try:
        architecture = Architecture.from_dict(data, source=source)
        check_operators(architecture)
        _check_widths(architecture, source)
        _check_depth(backbone.num_layers, architecture, "" if problems else _portable(source))
    except UserError as error:
        title = _OTHER_SIZE if problems else error.title
        raise UserError(title, (*problems.entries, *error.problems)) from None
    problems.raise_if_any(_OTHER_SIZE)
    # the context length is always the model's
    architecture = architecture.with_backbone(max_position_embeddings=backbone.max_position_embeddings)
    if not (isinstance(data, dict) and "designed_for" in data):
        return architecture, ()
    designed = DesignedFor.read(data["designed_for"], Cursor(Problems()))
    assert designed is not None, "checked with the rest of the architecture"
    return scaled(architecture, designed, backbone)


def _with_sizes_of(model: Backbone, data: Any, source: Source | None, problems: Problems) -> Any:
    """Return the data with the model's sizes, so that the rest is checked against them.

    Fields of the backbone that differ are added as problems; a backbone that can't be read stays as it is.
    """
    unread = Problems()
    theirs = Backbone.read(data["backbone"], Cursor(unread)) if isinstance(data, dict) else None
    if theirs is None:
        return data
    kept = {}
    model = model.first_layers(theirs.num_layers)
    for item in fields(Backbone):
        mine, other = getattr(model, item.name), getattr(theirs, item.name)
        if item.name in _FREE:
            kept[item.name] = other
        elif mine != other:
            line = source.line(("backbone", item.name)) if source else None
            hint = "leave sizes out to take the model's, or give `designed_for` to scale ranks and windows"
            hint = "" if problems else _portable(source) or hint
            problems.add(f"backbone.{item.name}", other, f"the model has {mine!r}", hint, line)
    return {**data, "backbone": {**model.to_dict(), **kept}}


def _portable(source: Source | None) -> str:
    """Return how to get the design of a pick for a model of another size; empty for other files."""
    picked = _PICKED.match(source.text) if source is not None else None
    if picked is None:
        return ""
    trial, study = picked.groups()
    return f"nas pick {study} --trial {trial} --portable -o design.yaml writes it for models of any size"


def _check_depth(depth: int, after: Architecture, hint: str) -> None:
    """Check that the model's layers can become those of the architecture.

    Raises:
        UserError: they can't; with the hint in place of the usual one, unless it is empty.
    """
    try:
        folded_layers(depth, after)
    except UserError as error:
        if not hint:
            raise
        raise UserError(error.title, [replace(problem, hint=hint) for problem in error.problems]) from None


def _check_widths(after: Architecture, source: Source | None) -> None:
    """Check that no feed-forward part is wider than the model's: nothing says what its channels would be.

    Raises:
        UserError: lists the rules with a larger width.
    """
    problems, widest = Problems(), after.backbone.ffn_dim
    for position, rule in enumerate(after.ffn):
        width = rule.options["dim"]
        if width > widest:
            Cursor(problems, source).at("ffn", position, "dim").problem(
                width, f"must be at most the model's {widest}", "or leave the rule out"
            )
    problems.raise_if_any("the architecture can't be reached by surgery")


def folded_layers(depth: int, after: Architecture) -> tuple[tuple[int, ...], ...]:
    """Return, for each physical layer, the model's layers that are folded onto it.

    With as many physical layers as the model has, each is its own, and loops repeat them. With T loops over N
    physical layers and a model of T * N layers, physical layer i replaces layers i, i + N, i + 2N, ...

    Raises:
        UserError: the depth is neither.
    """
    physical, count = after.backbone.num_layers, after.loop_count
    if physical == depth:
        return tuple((index,) for index in range(depth))
    if physical * count == depth and after.loop_place is None:
        return tuple(tuple(range(index, depth, physical)) for index in range(physical))
    allowed = [str(depth)]
    if count > 1 and depth % count == 0 and after.loop_place is None:
        allowed.insert(0, str(depth // count))
    rule = f"must be {' or '.join(allowed)} for a model of {depth} layers and a loop of {count}"
    raise UserError(
        "the architecture does not fit the model's depth",
        [Problem("backbone.num_layers", physical, rule, "leave it out to keep every layer")],
    )
