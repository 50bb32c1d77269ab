"""Why a design of a pretrained model was chosen: what each of its replacements costs, and what it saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from search_spaces.replacements import KEEP, Replacements
from search_spaces.space import SearchSpace
from studies.library.scores import Scores
from studies.study.trial_record import TrialRecord


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
        saves: cost objective: by how much the replacement lowers it, exactly.
    """

    layer: int
    part: str
    replacement: str
    kl: float
    standard_error: float
    rank: int
    layers: int
    saves: Mapping[str, int]


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

    @classmethod
    def of(cls, space: SearchSpace, scores: Scores, record: TrialRecord) -> Explanation | None:
        """Explain a trial; None if its architecture is not in the space."""
        replacements = space.replacements
        assert replacements is not None
        choice = replacements.choice(record.build())
        if choice is None:
            return None
        metrics = [item.name for item in space.objectives if item.metric.analytic]
        saved = {metric: _saved(replacements, metric) for metric in metrics}
        reasons = []
        for part in replacements.parts:
            label = choice[part.name]
            if label == KEEP:
                continue
            rivals = [
                scores.kl[other.name, label].mean
                for other in replacements.parts
                if other.part == part.part and label in other.labels
            ]
            score = scores.kl[part.name, label]
            rank = 1 + sum(rival < score.mean for rival in rivals)
            saves = {metric: saved[metric][part.name, label] for metric in metrics}
            reasons.append(
                Reason(
                    part.layer, part.part, label, score.mean, score.standard_error, rank, len(rivals), saves
                )
            )
        measured = {**record.measured, **record.metrics}.get("kl")
        return cls(tuple(reasons), scores.predicted(choice), measured)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `--json`; the keys are stable."""
        return {"summed_kl": self.summed, "why": [asdict(reason) for reason in self.reasons]}


def _saved(replacements: Replacements, metric: str) -> dict[tuple[str, str], int]:
    """Return what each option takes off a cost by (part's name, label)."""
    return {
        (part.name, label): -change
        for part, row in zip(replacements.parts, replacements.differences(metric), strict=True)
        for label, change in zip(part.labels, row, strict=True)
    }
