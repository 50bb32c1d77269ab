"""A small space trained whole: every architecture's exact costs and measured curves, in one compact file.

The table that ships with the package was made by `python -m studies.replay.build`. Every suggestion of every
sampler on its space is in it, so that its true front is known.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from search_spaces import SearchSpace, parse_space
from studies.stats.pareto import front_indices
from surgery.config.json_source import parse_json
from surgery.config.problems import Problem, UserError

FORMAT_VERSION = 1
SPACE = Path(__file__).with_name("table.yaml")
FILE = Path(__file__).with_name("table.json.gz")


@dataclass(frozen=True)
class Entry:
    """What is known of one architecture.

    Attributes:
        params: a trial's parameters that give it.
        costs: exact metrics by name, such as `params` and `decode_flops@1024`.
        curves: held-out loss in nats/token at each of the table's fractions, one curve a repeat.
        seconds: training time of each repeat on the machine that made the table, evaluation left out.
    """

    hash: str
    line: str
    params: Mapping[str, Any]
    costs: Mapping[str, float]
    curves: tuple[tuple[float, ...], ...]
    seconds: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Held-out loss at the end, in nats/token: the mean of its repeats."""
        return fmean(curve[-1] for curve in self.curves)


@dataclass(frozen=True)
class Table:
    """Curves of every architecture of a space, by hash.

    Attributes:
        space: its proxy is the budget of every run.
        fractions: of the budget, rising to 1: where the curves have points.
        entries: by architecture hash.
        about: where the curves come from: data, seed, device and versions.
    """

    space: SearchSpace
    fractions: tuple[float, ...]
    entries: Mapping[str, Entry]
    about: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path = FILE) -> Table:
        """The table of a file; the one that ships with the package by default.

        Raises:
            UserError: no such file, or not a table.
        """
        try:
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                data = parse_json(stream.read())
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise _unusable(path, f"can't be read: {error}") from error
        if not isinstance(data, dict) or data.get("version") != FORMAT_VERSION:
            raise _unusable(path, f"is not a table of version {FORMAT_VERSION}")
        try:
            found = [_read_entry(item) for item in data["entries"]]
            fractions = tuple(_number(share) for share in data["fractions"])
            space, about = parse_space(str(data["space"]), "table.yaml"), dict(data["about"])
            if not found or any(len(curve) != len(fractions) for item in found for curve in item.curves):
                raise ValueError("every architecture needs a loss for each of the fractions")
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _unusable(path, f"is damaged: {type(error).__name__} {error}") from error
        return cls(space, fractions, {item.hash: item for item in found}, about)

    def save(self, path: str | Path) -> None:
        """Writes the file that `open` reads; the same table gives the same bytes."""
        data = {
            "version": FORMAT_VERSION,
            "about": dict(self.about),
            "space": self.space.text,
            "fractions": self.fractions,
            "entries": [
                {
                    "hash": entry.hash,
                    "line": entry.line,
                    "params": dict(entry.params),
                    "costs": dict(entry.costs),
                    "curves": entry.curves,
                    "seconds": entry.seconds,
                }
                for entry in self.entries.values()
            ],
        }
        text = json.dumps(data, separators=(",", ":"))
        Path(path).write_bytes(gzip.compress(text.encode(), mtime=0))

    def values(self, entry: Entry) -> tuple[float, ...]:
        """The objectives of an architecture in the space's order, its loss the mean of its repeats."""
        return tuple(
            entry.loss if item.name == "val_loss" else entry.costs[item.name]
            for item in self.space.objectives
        )

    @cached_property
    def front(self) -> tuple[Entry, ...]:
        """The true front: entries that no other beats in every objective."""
        entries = list(self.entries.values())
        points = [self.values(entry) for entry in entries]
        return tuple(entries[index] for index in front_indices(points, self.space.objectives))


def _read_entry(item: Mapping[str, Any]) -> Entry:
    return Entry(
        hash=str(item["hash"]),
        line=str(item["line"]),
        params=dict(item["params"]),
        costs={str(name): _number(value) for name, value in item["costs"].items()},
        curves=tuple(tuple(_number(loss) for loss in curve) for curve in item["curves"]),
        seconds=tuple(_number(value) for value in item["seconds"]),
    )


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _unusable(path: str | Path, rule: str) -> UserError:
    hint = "python -m studies.replay.build makes one"
    return UserError("can't use this table", [Problem("table", str(path), rule, hint)])
