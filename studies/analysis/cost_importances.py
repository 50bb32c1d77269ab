"""Importance of searched fields for exact costs: how much a cost changes when one field alone changes.

Importances from trials, such as PED-ANOVA's, would give a field that can't change a cost a share of it,
because a sampler chooses fields jointly. Costs are arithmetic over the architecture, so that the effect is
computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.trial import ReplayTrial
from studies.analysis.importances import LOOKED_AT, other_values
from studies.study import Study
from studies.study.trial_record import TrialRecord
from surgery.architecture.costs import cost


def cost_importances(
    study: Study, records: Sequence[TrialRecord], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return for each cost the share of each field, adding up to 1; fields without any effect have 0.

    The share is of the mean absolute change of the cost, over a few trials, from the trial's value of the
    field to a few others, with all other fields as they are.

    Args:
        records: trials with parameters, of which the last few are looked at.
        names: metrics that are computed from the architecture, such as `params`.
    """
    changes: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for record in [record for record in records if record.params][-LOOKED_AT:]:
        here = study.space.sample(ReplayTrial(record.params))
        base = {name: cost(here, name) for name in names}
        for field in record.params:
            for value in other_values(study, record, field):
                there = study.space.sample(ReplayTrial({**record.params, field: value}))
                for name in names:
                    change = 0.0 if there.hash == here.hash else abs(cost(there, name) - base[name])
                    changes[name].setdefault(field, []).append(change)
    shares = {}
    for name, by_field in changes.items():
        means = {field: sum(values) / len(values) for field, values in by_field.items()}
        total = sum(means.values())
        shares[name] = {field: mean / total if total else 0.0 for field, mean in means.items()}
    return shares
