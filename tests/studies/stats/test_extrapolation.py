"""Extrapolation of a loss along its own curve, and a study that is judged by it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import parse_space
from studies.analysis.versus_random import compare
from studies.audit.plan import open_audit
from studies.audit.report import PROXY, report
from studies.audit.runs import train_runs
from studies.audit.settings import long_settings
from studies.search.early_stopping import expected_values
from studies.stats.extrapolation import extrapolated_losses
from studies.stats.rank_correlation import spearman
from studies.study import Study
from studies.workers.proxy import train_settings
from studies.workers.worker import work
from surgery.architecture.metrics import AHEAD
from surgery.config.problems import UserError
from tests.studies.conftest import SPACE, MakeStudy, search_of
from tests.studies.tables import row_of

LOSS = "val_loss@4x"
TEXT = SPACE.replace("{val_loss: min", f"{{{LOSS}: min").replace(
    "rungs: [0.5, 1.0]", "rungs: [0.25, 1.0], final_lr: 1.0"
)
loss = st.floats(0.1, 12)


@given(loss, loss, st.integers(1, 10**9), st.sampled_from(sorted(AHEAD)))
def test_a_straight_line_is_followed(start: float, end: float, tokens: int, name: str) -> None:
    """The closed form: the line through two points, at the logarithm of the longer run's tokens."""
    times = AHEAD[name]
    slope, offset = np.polyfit(np.log([tokens / times, tokens]), [start, end], 1)
    wanted = offset + slope * math.log(times * tokens)
    assert extrapolated_losses([start, end], [1 / times, 1.0]) == {name: pytest.approx(wanted, abs=1e-6)}
    assert extrapolated_losses([9.0, start, end], [0.1, 1 / times, 1.0]) == extrapolated_losses(
        [start, end], [1 / times, 1.0]
    )


def test_it_needs_a_rung_to_start_from() -> None:
    assert extrapolated_losses([5.0, 4.0], [0.4, 1.0]) == {}
    assert set(extrapolated_losses([6.0, 5.0, 4.0], [0.25, 0.5, 1.0])) == set(AHEAD)
    for name, rungs, hint in ((LOSS, "[0.5, 1.0]", "[0.25, 0.5, 1]"), ("val_loss@2x", "[1.0]", "[0.5, 1]")):
        with pytest.raises(UserError) as caught:
            parse_space(TEXT.replace(LOSS, name).replace("[0.25, 1.0]", rungs), "small.yaml")
        (problem,) = caught.value.problems
        assert problem.field == f"objectives.{name}"
        assert problem.hint == f"write rungs: {hint} in proxy"


@pytest.mark.parametrize("other", ["val_loss", "val_bpb", "val_loss@2x"])
def test_it_means_the_same_as_the_loss(other: str) -> None:
    text = TEXT.replace(f"{{{LOSS}: min", f"{{{other}: min, {LOSS}: min").replace("[0.25, 1", "[0.25, 0.5, 1")
    assert any(other in warning and LOSS in warning for warning in parse_space(text, "s.yaml").warnings())


def test_a_study_is_judged_by_it(make_study: MakeStudy) -> None:
    study = make_study(text=TEXT, stopping="median")
    expected: list[dict[int, list[float]]] = []
    work(
        study, target=10, device="cpu",
        log=lambda line: expected.append(expected_values(search_of(study), study.records())),
    )  # fmt: skip
    assert any(expected), "nothing was stopped"
    assert all(len(values) == 3 for result in expected for values in result.values())
    done = [record for record in study.records() if record.state == "trained"]
    for record in done:
        losses = [point["val_loss"] for point in study.curve(record.number) if "val_loss" in point]
        wanted = extrapolated_losses(losses, study.space.proxy.rungs)[LOSS]
        assert record.values is not None
        assert record.values[0] == record.metrics[LOSS] == wanted
        assert record.metrics["val_loss"] == losses[-1]
    observations = search_of(study).observe(study.records())
    ends = dict(zip(observations.numbers.tolist(), observations.curves[:, -1].tolist(), strict=True))
    assert [ends[record.number] for record in done] == [record.metrics[LOSS] for record in done]
    assert json.dumps(compare(study, study.records()).to_dict(), allow_nan=False)
    _check_audit(study)


def _check_audit(study: Study) -> None:
    audit = open_audit(study, 2, 4)
    assert train_settings(study.space, 0).final_lr == 1.0
    assert long_settings(audit).final_lr == 0.1  # as `nas train`, whatever the proxy does
    train_runs(audit, 1, "cpu")
    result = report(audit)
    long = np.array([point.long_loss for point in result.points])
    metrics = [point.record.metrics for point in result.points]
    for row, name in ((PROXY, LOSS), ("loss at 100% of it", "val_loss")):
        expected = spearman(np.array([item[name] for item in metrics]), long)
        assert row_of(result, row).spearman.value == pytest.approx(float(expected))
    assert result.to_dict()["proxy_loss"] == LOSS


def test_every_audit_says_how_it_would_rank(make_study: MakeStudy) -> None:
    study = make_study(text=TEXT.replace(LOSS, "val_loss"))
    work(study, target=4, device="cpu", log=lambda line: None)
    audit = open_audit(study, 2, 4)
    train_runs(audit, 1, "cpu")
    result = report(audit)
    long = np.array([point.long_loss for point in result.points])
    carried = np.array([point.record.metrics[LOSS] for point in result.points])
    row = row_of(result, f"{LOSS} by its curve")
    assert row.spearman.value == pytest.approx(float(spearman(carried, long)))
