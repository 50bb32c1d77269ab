"""Importances for exact costs: fields that can't change a cost have none, against a count by hand."""

from __future__ import annotations

import pytest

from search_spaces.trial import ReplayTrial
from studies.analysis.cost_importances import cost_importances
from studies.analysis.importances import other_values
from surgery.architecture.costs import cost
from tests.studies.conftest import MakeStudy
from tests.studies.filled import fill


def test_shares_are_mean_changes_by_one_field_alone(make_study: MakeStudy) -> None:
    study = fill(make_study(sampler="random"), 12, lambda params, rng: 4.0)
    records = study.records()
    shares = cost_importances(study, records, ["params", "decode_flops@64"])
    for column in shares.values():
        assert sum(column.values()) == pytest.approx(1)
        assert column["hdpl.kl_weight"] == 0
    assert shares["params"]["loop.count"] < shares["decode_flops@64"]["loop.count"]
    assert shares["decode_flops@64"]["loop.count"] > 0.5

    record = records[-1]
    alone = cost_importances(study, [record], ["params"])["params"]
    changes = {}
    for field in record.params:
        others = [
            cost(study.space.sample(ReplayTrial({**record.params, field: value})), "params")
            for value in other_values(study, record, field)
        ]
        here = cost(record.build(), "params")
        changes[field] = sum(abs(other - here) for other in others) / max(1, len(others))
    total = sum(changes.values())
    for field, share in alone.items():
        assert share == pytest.approx(changes[field] / total)


def test_without_trials_there_are_no_shares(make_study: MakeStudy) -> None:
    assert cost_importances(make_study(), [], ["params"]) == {"params": {}}
