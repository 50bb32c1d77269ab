"""Table of a fully trained small space: exact costs and loss curves of every architecture, in one file.

The table that ships with the package was made by `python -m studies.replay.build`. It covers every
architecture that a sampler can suggest in its space, so that the true front is known.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from search_spaces import SearchSpace, parse_space
from studies.search.facts import ArchitectureFacts
from studies.stats.pareto import front_indices
from surgery.config.json_source import parse_json
from surgery.config.problems import Problem, UserError

FORMAT_VERSION = 1
SPACE = Path(__file__).with_name("table.yaml")
FILE = Path(__file__).with_name("table.json.gz")
TABLES = Path(__file__).with_name("tables")  # more of them: no setting was chosen with a look at HELD_OUT
HELD_OUT = ("books", "crossing")
SUFFIX = ".json.gz"


@dataclass(frozen=True)
class Entry:
    """Costs and measurements of one architecture.

    Attributes:
        params: trial parameters that give it.
        costs: exact metrics by name, such as `params` and `decode_flops@1024`.
        curves: held-out loss in nats/token at each of the table's fractions, one curve per run.
        seconds: training time of each run on the machine that made the table, without evaluation.
    """

    hash: str
    line: str
    params: Mapping[str, Any]
    costs: Mapping[str, float]
    curves: tuple[tuple[float, ...], ...]
    seconds: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Mean final held-out loss over the runs, in nats/token."""
        return fmean(curve[-1] for curve in self.curves)


@dataclass(frozen=True)
class Table:
    """Loss curves of every architecture of a space.

    Attributes:
        space: the space, whose proxy is the budget of every run.
        fractions: shares of the budget at which the curves have points, rising to 1.
        entries: entries by architecture hash.
        about: provenance of the curves: data, seed, device and versions.
    """

    space: SearchSpace
    fractions: tuple[float, ...]
    entries: Mapping[str, Entry]
    about: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path = FILE) -> Table:
        """Read a table from a file, by default the one that ships with the package.

        Raises:
            UserError: no such file, or not a table.
        """
        try:
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                data = parse_json(stream.read())
        except (OSError, EOFError, zlib.error, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise unusable(path, f"can't be read: {reason}") from error
        if not isinstance(data, dict) or data.get("version") != FORMAT_VERSION:
            raise unusable(path, f"is not a table of version {FORMAT_VERSION}")
        try:
            entries = [_read_entry(item) for item in data["entries"]]
            fractions = tuple(_number(share) for share in data["fractions"])
            space, about = parse_space(str(data["space"]), "table.yaml"), dict(data["about"])
            if not entries or any(len(curve) != len(fractions) for item in entries for curve in item.curves):
                raise ValueError("every architecture needs a loss for each of the fractions")
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise unusable(path, f"is damaged: {type(error).__name__} {error}") from error
        return cls(space, fractions, {item.hash: item for item in entries}, about)

    def save(self, path: str | Path) -> None:
        """Write the file that `open` reads; equal tables give equal bytes."""
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
        """Return an architecture's objectives in the space's order, with the mean loss over its runs."""
        return tuple(
            entry.loss if item.name == "val_loss" else entry.costs[item.name]
            for item in self.space.objectives
        )

    @cached_property
    def front(self) -> tuple[Entry, ...]:
        """The true front: the non-dominated entries."""
        entries = list(self.entries.values())
        points = [self.values(entry) for entry in entries]
        return tuple(entries[index] for index in front_indices(points, self.space.objectives))

    @cached_property
    def facts(self) -> ArchitectureFacts:
        """Exact facts of the space, for all searches of the table."""
        return ArchitectureFacts(self.space)


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


def unusable(path: str | Path, rule: str) -> UserError:
    """Return the error that a file is no table."""
    hint = "python -m studies.replay.build makes one"
    return UserError("can't use this table", [Problem("table", str(path), rule, hint)])


def shipped() -> dict[str, Path]:
    """Return the tables that come with the package, by name."""
    return {"mixers": FILE} | {name_of(path): path for path in sorted(TABLES.glob(f"*{SUFFIX}"))}


def find_tables(given: Sequence[str]) -> list[Path]:
    """Return the files of tables given by name, file or folder, each once; `all`: all shipped ones.

    Raises:
        UserError: a folder without tables.
    """
    known = shipped()
    files: dict[Path, None] = {}
    for text in given:
        path = Path(text)
        if text == "all":
            matches = list(known.values())
        elif text in known:
            matches = [known[text]]
        elif path.is_dir():
            matches = sorted(path.glob(f"*{SUFFIX}"))
            if not matches:
                raise unusable(path, f"has no file *{SUFFIX}")
        else:
            matches = [path]
        files |= dict.fromkeys(matches)
    return list(files)


def name_of(path: Path) -> str:
    """Return the name of a table by its file."""
    return "mixers" if path == FILE else path.name.removesuffix(SUFFIX)
