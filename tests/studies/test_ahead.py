"""The loss carried on along its own curve: the line itself, and a study that is judged by it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import parse_space
from studies.ahead import carried_on
from studies.audit.plan import open_audit
from studies.audit.report import PROXY, report
from studies.audit.runs import long_settings, train_runs
from studies.gathering import gather
from studies.rank_correlation import spearman
from studies.stopping import expected_values
from studies.study import Study
from studies.versus_random import compare
from studies.worker import train_settings, work
from surgery.costs import AHEAD, AHEAD_FROM, AHEAD_TIMES
from surgery.problems import UserError

from .conftest import SPACE, MakeStudy

TEXT = SPACE.replace("{val_loss: min", "{val_loss@4x: min").replace(
    "rungs: [0.5, 1.0]", f"rungs: [{AHEAD_FROM}, 1.0], final_lr: 1.0"
)
loss = st.floats(0.1, 12)


@given(loss, loss, st.integers(1, 10**9))
def test_a_straight_line_is_followed(start: float, end: float, tokens: int) -> None:
    """The closed form: the line through two points, at the logarithm of the longer run's tokens."""
    slope, offset = np.polyfit(np.log([AHEAD_FROM * tokens, tokens]), [start, end], 1)
    wanted = offset + slope * math.log(AHEAD_TIMES * tokens)
    assert carried_on([start, end], [AHEAD_FROM, 1.0]) == pytest.approx(wanted, abs=1e-6)
    assert carried_on([9.0, start, end], [AHEAD_FROM / 2, AHEAD_FROM, 1.0]) == carried_on(
        [start, end], [AHEAD_FROM, 1.0]
    )
    assert carried_on([start, end], [AHEAD_FROM * 1.5, 1.0]) is None


def test_it_needs_a_rung_to_start_from() -> None:
    text = TEXT.replace(f"[{AHEAD_FROM}, 1.0]", "[0.5, 1.0]")
    with pytest.raises(UserError) as caught:
        parse_space(text, "small.yaml")
    (problem,) = caught.value.problems
    assert problem.field == f"objectives.{AHEAD}"
    assert problem.hint == f"write rungs: [{AHEAD_FROM}, 0.5, 1] in proxy"


def test_it_means_the_same_as_the_loss() -> None:
    space = parse_space(TEXT.replace("{val_loss@4x: min", "{val_loss: min, val_loss@4x: min"), "small.yaml")
    assert any(AHEAD in warning for warning in space.warnings())


def test_a_study_is_judged_by_it(make_study: MakeStudy) -> None:
    study = make_study(text=TEXT, stopping="median")
    expected: list[dict[int, list[float]]] = []
    work(
        study, target=10, device="cpu",
        log=lambda line: expected.append(expected_values(study, study.records())),
    )  # fmt: skip
    assert any(expected), "nothing was stopped"
    assert all(len(values) == 3 for found in expected for values in found.values())
    done = [record for record in study.records() if record.state == "done"]
    for record in done:
        losses = [point["val_loss"] for point in study.curve(record.number) if "val_loss" in point]
        wanted = carried_on(losses, study.space.proxy.rungs)
        assert record.values is not None
        assert record.values[0] == record.metrics[AHEAD] == wanted
        assert record.metrics["val_loss"] == losses[-1]
    evidence = gather(study, study.records())
    ends = dict(zip(evidence.numbers.tolist(), evidence.curves[:, -1].tolist(), strict=True))
    assert [ends[record.number] for record in done] == [record.metrics[AHEAD] for record in done]
    assert json.dumps(compare(study, study.records()).to_dict(), allow_nan=False)
    _check_audit(study)


def _check_audit(study: Study) -> None:
    audit = open_audit(study, 2, 4)
    assert train_settings(study.space, 0).final_lr == 1.0
    assert long_settings(audit).final_lr == 0.1  # as `nas train`, whatever the proxy does
    train_runs(audit, 1, "cpu")
    found = report(audit)
    long = np.array([point.long_loss for point in found.points])
    metrics = [point.record.metrics for point in found.points]
    for row, name in ((PROXY, AHEAD), ("loss at 100% of it", "val_loss")):
        expected = spearman(np.array([item[name] for item in metrics]), long)
        assert found.row[row].spearman.value == pytest.approx(float(expected))
    assert found.to_dict()["proxy_loss"] == AHEAD


def test_every_audit_says_how_it_would_rank(make_study: MakeStudy) -> None:
    study = make_study(text=TEXT.replace("val_loss@4x", "val_loss"))
    work(study, target=4, device="cpu", log=lambda line: None)
    audit = open_audit(study, 2, 4)
    train_runs(audit, 1, "cpu")
    found = report(audit)
    long = np.array([point.long_loss for point in found.points])
    carried = np.array([point.record.metrics[AHEAD] for point in found.points])
    row = found.row[f"{AHEAD} by its curve"]
    assert row.spearman.value == pytest.approx(float(spearman(carried, long)))
