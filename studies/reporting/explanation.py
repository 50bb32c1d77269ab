"""Why a design of a pretrained model was chosen: what each of its replacements costs, and what it saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from search_spaces.replacements import KEEP, Part
from search_spaces.space import SearchSpace
from studies.library.scores import Scores
from studies.reporting.markdown import markdown_table
from studies.study.trial_record import TrialRecord
from surgery.architecture.metrics import parse_metric


@dataclass(frozen=True)
class Reason:
    """A part that a design replaces.

    Attributes:
        layer: its index.
        part: `mixer` or `ffn`.
        replacement: label of what it becomes.
        kl: score in nats/token.
        standard_error: of the score.
        rank: of the score among all layers that have this replacement; 1 is the lowest.
        layers: how many have it.
        saves: cost objective: by how much the replacement lowers it, exactly, in its unit.
    """

    layer: int
    part: str
    replacement: str
    kl: float
    standard_error: float
    rank: int
    layers: int
    saves: Mapping[str, float]


@dataclass(frozen=True)
class Explanation:
    """The replaced parts of a design, bottom to top, and their scores' sum beside what was measured.

    Attributes:
        reasons: one per replaced part.
        summed: sum of the scores in nats/token.
        measured: KL divergence of the whole design in nats/token; None before it is known.
    """

    reasons: tuple[Reason, ...]
    summed: float
    measured: float | None

    def markdown(self) -> str:
        """Return a table of the replaced parts, and a line below it."""
        if not self.reasons:
            return "Nothing is replaced: this is the original model."
        metrics = list(self.reasons[0].saves)
        head = ["layer", "part", "replacement", "KL", "±", "rank", *(f"saves {name}" for name in metrics)]
        rows = [
            [
                str(item.layer),
                item.part,
                item.replacement,
                precise(item.kl),
                precise(item.standard_error),
                f"{item.rank}/{item.layers}",
                *(saving(name, value) for name, value in item.saves.items()),
            ]
            for item in self.reasons
        ]
        measured = "" if self.measured is None else f"; the design measured {self.measured:.4f}"
        table = markdown_table(head, rows)
        return f"{table}\n\nThe scores (KL) add up to {self.summed:.4f} nats/token{measured}."

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `--json`; the keys are stable."""
        return {"summed_kl": self.summed, "why": [asdict(reason) for reason in self.reasons]}


def precise(kl: float) -> str:
    """Return a score or its standard error with five decimals, or one digit where these are zeros."""
    return f"{kl:.0e}".replace("e-0", "e-") if 0 < kl < 5e-6 else f"{kl:.5f}"


def saving(metric: str, value: float) -> str:
    """Return what a replacement saves of a cost as text; it may be negative."""
    text = parse_metric(metric)[0].format(abs(value))
    return f"-{text}" if value < 0 else text


class Explainer:
    """Explains trials of a study."""

    def __init__(self, space: SearchSpace, scores: Scores) -> None:
        """Set up for a space over a pretrained model, with its scores."""
        assert space.replacements is not None
        self.space, self.replacements, self.scores = space, space.replacements, scores
        self.metrics = [item.name for item in space.objectives if item.metric.is_cost]

    def explain(self, record: TrialRecord) -> Explanation | None:
        """Return the replaced parts of a trial; None if its architecture is not in the space."""
        parts = self.replacements.parts
        if all(part.name in record.params for part in parts):
            choice = {part.name: record.params[part.name] for part in parts}
        else:  # given from outside
            choice = self.replacements.choice(record.build()) or {}
        if not choice:
            return None
        reasons = [self._reason(part, choice[part.name]) for part in parts if choice[part.name] != KEEP]
        measured = {**record.measured, **record.metrics}.get("kl")
        return Explanation(tuple(reasons), self.scores.predicted(choice), measured)

    def _reason(self, part: Part, label: str) -> Reason:
        rivals = self._rivals[part.part, label]
        score = self.scores.kl[part.name, label]
        rank = 1 + sum(rival < score.mean for rival in rivals)
        saves = {metric: self._saved[metric][part.name, label] for metric in self.metrics}
        return Reason(
            part.layer, part.part, label, score.mean, score.standard_error, rank, len(rivals), saves
        )

    @cached_property
    def _rivals(self) -> dict[tuple[str, str], list[float]]:
        """Scores of a replacement in all layers that have it, by (part, label)."""
        rivals: dict[tuple[str, str], list[float]] = {}
        for part in self.replacements.parts:
            for label in part.labels:
                rivals.setdefault((part.part, label), []).append(self.scores.kl[part.name, label].mean)
        return rivals

    @cached_property
    def _saved(self) -> dict[str, dict[tuple[str, str], float]]:
        """Savings of each option in each cost objective, in its unit, by (part's name, label)."""
        return {metric: self._saved_of(metric) for metric in self.metrics}

    def _saved_of(self, name: str) -> dict[tuple[str, str], float]:
        metric, _ = parse_metric(name)
        rows = self.replacements.differences(name, self.space.times)
        return {
            (part.name, label): -change if metric.analytic else -change / metric.steps
            for part, row in zip(self.replacements.parts, rows, strict=True)
            for label, change in zip(part.labels, row, strict=True)
        }
