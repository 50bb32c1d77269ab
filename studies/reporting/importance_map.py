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
        fields: by their importance for the front, highest first; empty while there are too few trials.
        by_objective: share of each field in the front, and in each objective; each column adds up to 1, and
            is empty while it is not known.
    """

    study: str
    fields: tuple[Field, ...]
    loss_name: str
    by_objective: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, study: Study) -> ImportanceMap | None:
        """Compute the importances of a study; None without a trial of its space.

        Those for costs are exact from the first trial on; the loss needs more of them.
        """
        if study.space.replacements is not None:
            return None  # `PartMap` has what its scores say
        records = [record for record in study.records() if record.state == DONE and record.params]
        if not records:
            return None
        try:
            fields = importances(study).fields
        except UserError:
            fields = ()
        objectives = study.space.objectives
        loss_name = next(item.name for item in objectives if item.measured)
        costs = cost_importances(study, records, [item.name for item in objectives if item.metric.analytic])
        loss = {field.name: field.loss for field in fields}
        shares: dict[str, Mapping[str, float]] = {"front": {field.name: field.front for field in fields}}
        for item in objectives:
            shares[item.name] = costs.get(item.name, loss if item.name == loss_name else {})
        return cls(study.name, fields, loss_name, shares)

    @property
    def names(self) -> tuple[str, ...]:
        """The fields, in order."""
        if self.fields:
            return tuple(field.name for field in self.fields)
        every = {name for shares in self.by_objective.values() for name in shares}
        return tuple(sorted(every, key=lambda name: (-self._most(name), name)))

    def _most(self, name: str) -> float:
        return max(shares.get(name, 0.0) for shares in self.by_objective.values())

    def of_objectives(self, names: Sequence[str]) -> list[dict[str, float]]:
        """Return the share of every field in each of these objectives; empty for those not known yet."""
        return [
            {field: self.by_objective[name].get(field, 0.0) for field in self.names}
            if self.by_objective[name]
            else {}
            for name in names
        ]

    def figure(self) -> Figure:
        """Return the map as a plot."""
        rows = self.names[:MOST_FIELDS]
        columns = [name for name, shares in self.by_objective.items() if shares]
        shares = [[self.by_objective[column].get(field, 0.0) for column in columns] for field in rows]
        by_name = {field.name: field for field in self.fields}
        heat = HeatMap(
            "",
            rows=rows,
            columns=columns,
            values=[[share if share > 0 else nan for share in row] for row in shares],
            texts=[[f"{share:.0%}" if share >= 0.005 else "·" for share in row] for row in shares],
            hover=[
                [
                    self._hover(field, by_name.get(field), column, share)
                    for column, share in zip(columns, row, strict=True)
                ]
                for field, row in zip(rows, shares, strict=True)
            ],
            label="",
            low=_LEAST,
            high=1.0,
        )
        title = f"{self.study}: which fields matter (shares per column)"
        return Figure(title, [heat], width=6, height=1.5 + 0.2 * len(rows))

    def _hover(self, name: str, field: Field | None, column: str, share: float) -> str:
        if field is None or column not in ("front", self.loss_name):
            effect = "can't change it" if share == 0 else f"{share:.1%} of all changes by one field alone"
            return f"{name}, {column}: {effect} (computed)"
        text = f"{name}, {column}: {share:.1%} by PED-ANOVA, {field.trials} trials"
        if column == self.loss_name and field.p is not None:
            text += f"<br>any effect on the loss: p = {field.p:.3f}"
        return text
