"""Scores of replacements: KL(original || original with this one part replaced), in nats per token.

Loads no torch, so that results can be shown at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.replacements import KEEP, Replacements
from studies.files.json_file import read_json, write_json
from studies.library.entries import Entry, entries_of
from surgery.config.problems import Problem, UserError

SCORES = "scores.json"


@dataclass(frozen=True)
class Score:
    """Mean over held-out sequences, and its standard error, in nats/token."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64]) -> Score:
        """Return mean and standard error of values of sequences, of which there are at least two."""
        assert len(values) > 1, "one value has no standard error"
        return cls(float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5))


@dataclass(frozen=True)
class Scores:
    """Scores of all options of a space by (part's name, label), in its order; keeping a part scores 0.

    Attributes:
        kl: on held-out text.
        retrieval: at the answers of retrieval prompts; None: not scored.
    """

    kl: Mapping[tuple[str, str], Score]
    retrieval: Mapping[tuple[str, str], Score] | None = None

    def predicted(self, choice: Mapping[str, str]) -> float:
        """Return the sum of the scores of a choice of labels by part's name."""
        return sum(self.kl[key].mean for key in choice.items())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: part's name -> label -> [mean, standard error], twice with retrieval."""
        data: dict[str, Any] = {}
        for scores in (self.kl, self.retrieval or {}):
            for (part, label), score in scores.items():
                values = data.setdefault(part, {}).setdefault(label, [])
                values += [score.mean, score.standard_error]
        return data


def write_scores(folder: Path, scores: Scores) -> None:
    """Write the scores of a study's space into the study's folder."""
    write_json(folder / SCORES, scores.to_dict())


def read_scores(folder: Path, parts: Replacements) -> Scores | None:
    """Read the scores of a study's space from the study's folder; None if they are not there (yet).

    Raises:
        UserError: the file is damaged, or is of another space.
    """
    hint = "remove it and run the search again, which writes it anew from the library"
    data = read_json(folder / SCORES, hint)
    if data is None:
        return None
    try:
        rows = {
            (part.name, label): [float(value) for value in data[part.name][label]]
            for part in parts.parts
            for label in part.labels
        }
        sizes = {len(row) for row in rows.values()}
        if sizes not in ({2}, {4}) or not all(map(isfinite, itertools.chain(*rows.values()))):
            raise ValueError("a score is missing or no finite number")
    except (KeyError, TypeError, ValueError) as error:
        rule = "does not have the mean and the standard error of every replacement of the study's space"
        raise UserError(
            "no scores of this study", [Problem(SCORES, str(folder / SCORES), rule, hint)]
        ) from error
    kl = {key: Score(*row[:2]) for key, row in rows.items()}
    return Scores(kl, {key: Score(*row[2:]) for key, row in rows.items()} if sizes == {4} else None)


class ScoreFile:
    """The scores that a library knows so far, one KL divergence per held-out sequence and replacement."""

    def __init__(self, folder: Path) -> None:
        """Read the folder's file, if there is one.

        Raises:
            UserError: it is damaged.
        """
        self.path = folder / SCORES
        data = read_json(self.path) or {}
        self._values: dict[str, list[float]] = data.get("kl", {})

    def has(self, entry: Entry) -> bool:
        """Return whether a replacement is scored."""
        return entry.name in self._values

    def add(self, entry: Entry, values: Sequence[float]) -> None:
        """Write the KL divergence of each sequence in nats/token."""
        self._values[entry.name] = list(values)
        write_json(self.path, {"kl": self._values})

    def values(self, entry: Entry) -> NDArray[np.float64]:
        """Return the KL divergence of each sequence in nats/token."""
        return np.array(self._values[entry.name])

    def scores(self, parts: Replacements) -> dict[tuple[str, str], Score] | None:
        """Return the scores of all options of a space; None if some are missing."""
        entries = entries_of(parts)
        if not all(self.has(entry) for entry in entries.values()):
            return None
        scores = {}
        for part in parts.parts:
            for label in part.labels:
                key = (part.name, label)
                scores[key] = Score(0.0, 0.0) if label == KEEP else Score.of(self.values(entries[key]))
        return scores
