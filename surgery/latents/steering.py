"""Steering files: rules that add to latents, scale them or clamp them, read and checked as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from surgery.architecture.layer_rules import read_selector
from surgery.architecture.rules import read_match
from surgery.config.backbone import PROJECTIONS
from surgery.config.options import Cursor, Option
from surgery.config.paths import expand
from surgery.config.problems import Problems, UserError
from surgery.config.selector import select_layers
from surgery.config.yaml_source import load_yaml
from surgery.latents.adapter import Adapter, load_adapter
from surgery.latents.change import Change
from surgery.latents.projections import Latent

FIELDS = ("match", "layers", "units", "add", "scale", "clamp", "adapter", "times")
EXAMPLE = "- {match: [gate, up], layers: 0-3, add: 0.5}"
_NUMBER = Option(float)


@dataclass(frozen=True)
class Steering:
    """Changes of a model's latents.

    Attributes:
        changes: one for each projection that is steered.
        adapters: whose offsets are among the changes; a model that they are not of is refused.
    """

    changes: Mapping[Latent, Change]
    adapters: tuple[Adapter, ...] = field(default=())

    @classmethod
    def of(cls, adapter: Adapter) -> Steering:
        """Return the steering that adds an adapter's offsets."""
        return cls({name: Change.shift(offset) for name, offset in adapter.offsets.items()}, (adapter,))


def read_steering(
    source: str | os.PathLike[str] | Mapping[str, Any], ranks: Mapping[Latent, int], depth: int
) -> Steering:
    """Read a steering file, or the same as plain data.

    Rules apply one after the other to what the rules before them leave; within a rule `scale` comes before
    `add`, and `clamp` last.

    Args:
        source: path of the YAML file, or its content.
        ranks: latents of each HDPL projection of the model, see `latent_ranks` and `ranks_of`.
        depth: layers of the model.

    Raises:
        UserError: lists everything in the file that is not valid or does not fit the model.
    """
    problems = Problems()
    if isinstance(source, Mapping):
        cursor, data, folder = Cursor(problems), dict(source), Path()
    else:
        file = load_yaml(expand(source))
        cursor, data, folder = Cursor(problems, file), file.data, expand(source).parent
    rules = cursor.mapping(data, ("steer",)).get("steer")
    if not isinstance(rules, list) or not rules:
        cursor.at("steer").problem(rules, "must be a list of rules", EXAMPLE)
        rules = []
    changes: dict[Latent, Change] = {}
    adapters: list[Adapter] = []
    for position, rule in enumerate(rules):
        reader = _Rule(rule, cursor.at("steer", position), ranks, depth, folder)
        for latent, change in reader.changes().items():
            changes[latent] = changes[latent].then(change) if latent in changes else change
        adapters += [] if reader.adapter is None else [reader.adapter]
    title = "the steering can't be used" if isinstance(source, Mapping) else f"{source} can't be used"
    problems.raise_if_any(title)
    return Steering(changes, tuple(adapters))


class _Rule:
    """Reader of one rule; problems are added to the cursor's."""

    def __init__(
        self, data: object, cursor: Cursor, ranks: Mapping[Latent, int], depth: int, folder: Path
    ) -> None:
        self.cursor, self.ranks, self.depth, self.folder = cursor, ranks, depth, folder
        self.given = cursor.mapping(data, FIELDS)
        self.valid = isinstance(data, dict)
        self.adapter: Adapter | None = None

    def changes(self) -> dict[Latent, Change]:
        """Return the change of each projection that the rule selects; none if the rule is not valid."""
        if not self.valid:
            return {}
        selected = self._selected()
        if "adapter" in self.given:
            return self._of_adapter(selected)
        if "times" in self.given:
            self.cursor.at("times").problem(self.given["times"], "has no effect without `adapter`")
        if not {"add", "scale", "clamp"} & self.given.keys():
            self.cursor.problem(None, "changes nothing", "give add, scale, clamp or adapter")
        before = len(self.cursor.problems.entries)
        scale = self._read("scale", _numbers, 1.0)
        add = self._read("add", _numbers, 0.0)
        low, high = self._read("clamp", _bounds, (-torch.inf, torch.inf))
        result = {}
        for latent in selected:
            try:
                units = self._units(latent)
                for name, value in (("scale", scale), ("add", add)):
                    if isinstance(value, list) and len(value) != len(units):
                        rule = f"has {len(value)} numbers for {len(units)} units of {latent}"
                        raise _Misfit(name, rule)
            except _Misfit as error:  # once, although it may not fit other projections either
                self.cursor.at(error.name).problem(self.given[error.name], error.rule)
                break
            parts = {
                "scale": (1.0, scale),
                "offset": (0.0, add),
                "low": (-torch.inf, low),
                "high": (torch.inf, high),
            }
            tensors = {
                name: torch.full((self.ranks[latent],), same, dtype=torch.float64)
                for name, (same, _) in parts.items()
            }
            for name, (_, value) in parts.items():
                tensors[name][units] = torch.as_tensor(value, dtype=torch.float64)
            result[latent] = Change(**tensors)
        return result if len(self.cursor.problems.entries) == before else {}

    def _selected(self) -> list[Latent]:
        """Return the HDPL projections that the rule selects."""
        before = len(self.cursor.problems.entries)
        everything = "adapter" in self.given and "match" not in self.given
        match = PROJECTIONS if everything else read_match(self.given.get("match"), self.cursor.at("match"))
        here = self.cursor.at("layers")
        selector = read_selector(self.given.get("layers"), here)
        try:
            layers = select_layers(selector, self.depth)
        except ValueError as error:
            here.problem(selector, str(error))
        if len(self.cursor.problems.entries) > before:
            return []
        selected = [latent for latent in self.ranks if latent.layer in layers and latent.projection in match]
        missing = [name for name in match if name not in {latent.projection for latent in selected}]
        if missing and (match != PROJECTIONS or not selected):
            there = sorted({latent.projection for latent in self.ranks}, key=PROJECTIONS.index)
            rule = f"{', '.join(missing)}: not an HDPL projection in these layers"
            self.cursor.at("match").problem(self.given.get("match"), rule, f"HDPL are {', '.join(there)}")
        return selected

    def _units(self, latent: Latent) -> list[int]:
        """Return the selected units of a projection.

        Raises:
            _Misfit: it has not all of them.
        """
        rank, selector = self.ranks[latent], self.given.get("units")
        text = selector if selector is None or isinstance(selector, str) else str(selector).strip("[]")
        try:
            return list(select_layers(text, rank, item="unit", whole=str(latent)))
        except ValueError as error:
            raise _Misfit("units", str(error)) from None

    def _read(self, name: str, read: Callable[[object], Any], default: Any) -> Any:
        """Return a field's value; the default if it is not given or not valid."""
        if name not in self.given:
            return default
        try:
            return read(self.given[name])
        except ValueError as error:
            self.cursor.at(name).problem(self.given[name], str(error))
            return default

    def _of_adapter(self, selected: list[Latent]) -> dict[Latent, Change]:
        """Return the offsets of an adapter in the selected projections."""
        for name in ("units", "add", "scale", "clamp"):
            if name in self.given:
                hint = "write another rule"
                self.cursor.at(name).problem(self.given[name], "does not go with `adapter`", hint)
        times, where = self._read("times", _NUMBER.read, 1.0), self.cursor.at("adapter")
        if not isinstance(self.given["adapter"], str):
            where.problem(self.given["adapter"], "must be the folder of an adapter")
            return {}
        try:
            self.adapter = load_adapter(self.folder / expand(self.given["adapter"]))
        except UserError as error:
            for item in error.problems:
                where.problem(self.given["adapter"], f"{item.name}: {item.rule}", item.hint)
            return {}
        result = {}
        for latent in selected:
            offset = self.adapter.offsets.get(latent)
            if offset is not None and len(offset) != self.ranks[latent]:
                rule = f"has {len(offset)} offsets for the {self.ranks[latent]} latents of {latent}"
                where.problem(self.given["adapter"], rule, "it is of another model")
            elif offset is not None:
                result[latent] = Change.shift(times * offset.double())
        return result


class _Misfit(Exception):
    """A field that does not fit one of the selected projections."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(rule)
        self.name, self.rule = name, rule


def _numbers(value: object) -> list[float] | float:
    """Return a number, or the numbers of a list.

    Raises:
        ValueError: neither.
    """
    return [_NUMBER.read(item) for item in value] if isinstance(value, list) else float(_NUMBER.read(value))


def _bounds(value: object) -> tuple[float, float]:
    """Return the lowest and the highest value; None in the file is no bound.

    Raises:
        ValueError: not two numbers in this order.
    """
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("must be the lowest and the highest value, such as [-2, 2]")
    low, high = (
        open_end if item is None else float(_NUMBER.read(item))
        for item, open_end in zip(value, (-torch.inf, torch.inf), strict=True)
    )
    if low > high:
        raise ValueError("has its lowest value above its highest")
    return low, high
