"""Parts of a pretrained model that matter: shares of each part in the scores and in the exact costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

from search_spaces.replacements import KEEP, PARTS, Part
from studies.library.scores import Score, Scores
from studies.reporting.figure import Figure, HeatMap
from studies.reporting.score_map import scores_of
from studies.study import Study

_LEAST = 0.01  # a smaller share has the lightest colour


@dataclass(frozen=True)
class PartMap:
    """Shares of the parts by objective.

    A part's share is that of the mean over its replacements of what each changes alone: the score for an
    objective that has scores, the exact difference for a cost. Other objectives have no shares.

    Attributes:
        study: its name.
        parts: those that may be replaced, bottom to top.
        letters: the model's own mixer of each layer.
        by_objective: share of each part by its name; each objective's add up to 1.
    """

    study: str
    parts: tuple[Part, ...]
    letters: str
    by_objective: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, study: Study) -> PartMap | None:
        """Return the shares; None before there are scores, and in a study that trains from scratch."""
        space, scores = study.space, scores_of(study)
        if scores is None or space.replacements is None or not space.costs_known:
            return None
        replacements = space.replacements
        shares = {}
        for item in space.objectives:
            if (known := _scores_for(item.name, scores)) is not None:
                changes = [
                    [known[part.name, label].mean for label in part.labels if label != KEEP]
                    for part in replacements.parts
                ]
            elif item.metric.is_cost:
                changes = [
                    [
                        float(abs(change))
                        for label, change in zip(part.labels, row, strict=True)
                        if label != KEEP
                    ]
                    for part, row in zip(
                        replacements.parts, replacements.differences(item.name, space.times), strict=True
                    )
                ]
            else:
                continue
            means = [sum(row) / len(row) if row else 0.0 for row in changes]
            total = sum(means) or 1.0
            names = [part.name for part in replacements.parts]
            shares[item.name] = {name: mean / total for name, mean in zip(names, means, strict=True)}
        return cls(study.name, replacements.parts, replacements.model.layout, shares)

    def of_objectives(self, names: Sequence[str]) -> list[dict[str, float]]:
        """Return the share of every part in each of these objectives; empty for those without shares."""
        return [dict(self.by_objective.get(name, {})) for name in names]

    def figure(self) -> Figure:
        """Return a map of layers by objectives and kinds of parts."""
        columns = [
            (name, kind)
            for name in self.by_objective
            for kind in PARTS
            if any(part.part == kind for part in self.parts)
        ]
        known = {(part.layer, part.part): part.name for part in self.parts}
        layers = range(len(self.letters))
        grid = [
            [
                self.by_objective[name][known[layer, kind]] if (layer, kind) in known else nan
                for name, kind in columns
            ]
            for layer in layers
        ]
        heat = HeatMap(
            "",
            rows=[f"{layer} {self.letters[layer]}" for layer in layers],
            columns=[f"{name} {kind}" for name, kind in columns],
            values=[[share if share > 0 else nan for share in row] for row in grid],
            texts=[["" if share != share else f"{share:.0%}" for share in row] for row in grid],
            hover=[
                [
                    "" if share != share else f"layer {layer}, {kind}: {share:.1%} of {name} by "
                    f"{'the scores' if name in SCORED else 'exact costs'}"
                    for (name, kind), share in zip(columns, row, strict=True)
                ]
                for layer, row in zip(layers, grid, strict=True)
            ],
            label="",
            low=_LEAST,
            high=1.0,
        )  # fmt: skip
        title = f"{self.study}: which parts matter (shares per objective)"
        return Figure(title, [heat], width=2.4 + 0.8 * len(columns), height=1.8 + 0.17 * len(self.letters))


SCORED = ("kl", "retrieval_kl")  # objectives that library scores predict


def _scores_for(objective: str, scores: Scores) -> Mapping[tuple[str, str], Score] | None:
    """Return the scores that predict an objective; None if none do."""
    return {"kl": scores.kl, "retrieval_kl": scores.retrieval}.get(objective)
