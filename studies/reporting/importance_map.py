"""Importances of searched fields as a map of fields by objectives, with our numbers for costs and loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

from studies.analysis.cost_importances import cost_importances
from studies.analysis.importances import Field, importances
from studies.reporting.figure import Figure, HeatMap
from studies.study import Study
from studies.study.trial_record import DONE
from surgery.config.problems import UserError

MOST_FIELDS = 24  # rows of the map
_LEAST = 0.01  # a smaller share has the lightest colour


@dataclass(frozen=True)
class ImportanceMap:
    """Importances by objective.

    Attributes:
        fields: by their importance for the front, highest first.
        by_objective: share of each field in the front, and in each objective; each column adds up to 1.
    """

    study: str
    fields: tuple[Field, ...]
    loss_name: str
    by_objective: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, study: Study) -> ImportanceMap | None:
        """Compute the importances of a study; None as long as there are too few trials for them."""
        if study.space.replacements is not None:
            return None  # its scores say what each replacement does
        try:
            result = importances(study)
        except UserError:
            return None
        exact = [item.name for item in study.space.objectives if item.metric.analytic]
        records = [record for record in study.records() if record.state == DONE and record.params]
        costs = cost_importances(study, records, exact)
        loss = {field.name: field.loss for field in result.fields}
        shares: dict[str, Mapping[str, float]] = {
            "front": {field.name: field.front for field in result.fields}
        }
        for item in study.space.objectives:
            shares[item.name] = costs.get(item.name, loss if item.name == result.loss_name else {})
        return cls(study.name, result.fields, result.loss_name, shares)

    def of_objectives(self, names: Sequence[str]) -> list[dict[str, float]]:
        """Return the share of every field in each of these objectives."""
        return [
            {field.name: self.by_objective[name].get(field.name, 0.0) for field in self.fields}
            for name in names
        ]

    def figure(self) -> Figure:
        """Return the map as a plot."""
        rows = self.fields[:MOST_FIELDS]
        columns = list(self.by_objective)
        shares = [[self.by_objective[column].get(field.name, 0.0) for column in columns] for field in rows]
        heat = HeatMap(
            "",
            rows=[field.name for field in rows],
            columns=[column if column == "front" else f"{column}" for column in columns],
            values=[[share if share > 0 else nan for share in row] for row in shares],
            texts=[[f"{share:.0%}" if share >= 0.005 else "·" for share in row] for row in shares],
            hover=[
                [self._hover(field, column, share) for column, share in zip(columns, row, strict=True)]
                for field, row in zip(rows, shares, strict=True)
            ],
            label="share",
            low=_LEAST,
            high=1.0,
        )
        title = f"{self.study}: which fields matter (shares per column)"
        return Figure(title, [heat], width=6, height=1.5 + 0.2 * len(rows))

    def _hover(self, field: Field, column: str, share: float) -> str:
        if column not in ("front", self.loss_name):
            effect = "can't change it" if share == 0 else f"{share:.1%} of all changes by one field alone"
            return f"{field.name}, {column}: {effect} (computed)"
        text = f"{field.name}, {column}: {share:.1%} by PED-ANOVA, {field.trials} trials"
        if column == self.loss_name and field.p is not None:
            text += f"<br>any effect on the loss: p = {field.p:.3f}"
        return text
