"""Confirming what was chosen: which runs it takes, and that their interval holds for the best of many."""

from __future__ import annotations

import numpy as np
import pytest

from studies.analysis.marks import Marks
from studies.analysis.standings import Standings
from studies.search.confirmation import CONFIRMING, chosen, next_confirmation
from studies.study.picks import Pick
from studies.study.replicates import mean_over_runs
from studies.study.trial_record import REPEAT_RUNNING, TrialRecord
from tests.studies.refined import refined
from tests.studies.tables import OBJECTIVES, record, repeat

PICK = Pick(2, "#2", "2", None, True, (), "", "2026-12-01T00:00:00+00:00", None, "here")


def confirming(number: int, original: int, index: int, values: tuple[float, ...] | None) -> TrialRecord:
    made = repeat(number, original, index, values)
    return record(
        number, [values] if values else [], state=made.state, repeat_of=original, repeat=index, confirms=index
    )


def three() -> list[TrialRecord]:
    return [record(0, [(2.0, 30.0), (2.1, 30.0)]), record(1, [(3.0, 10.0)]), record(2, [(4.0, 40.0)])]


def test_confirming_runs_have_no_part_in_the_choice() -> None:
    merged = mean_over_runs([*three(), confirming(3, 0, 1, (9.0, 30.0)), confirming(4, 0, 2, (9.2, 30.0))])
    assert merged[0].values == pytest.approx((2.05, 30.0))
    assert len(merged[0].runs) == 2
    assert [run.trial for run in merged[0].confirmations] == [3, 4]
    standings = Standings(merged, OBJECTIVES, 0)
    assert standings.noise is not None
    assert standings.noise.df == 3  # they tell of the noise
    row = standings.standing(merged[0])
    assert row.on_front
    assert row.confirmed is not None
    assert row.confirmed.values == pytest.approx((9.1, 30.0))
    assert row.confirmed.describe(OBJECTIVES).startswith("val_loss 9.1000 ±")
    assert row.confirmed.describe(OBJECTIVES).endswith(" by 2 runs that had no part in the choice")
    data = standings.to_dict(row)["confirmed"]
    assert (data["runs"], data["means"]) == (2, {"val_loss": pytest.approx(9.1)})
    low, high = data["intervals"]["val_loss"]
    assert (low + high) / 2 == pytest.approx(9.1)
    assert standings.to_dict(standings.standing(merged[1]))["confirmed"] is None


def test_the_best_the_knee_and_the_picks_are_confirmed() -> None:
    standings = Standings(three(), OBJECTIVES, 0)
    assert [row.record.number for row in standings.best] == [0]
    assert chosen(standings, Marks(1, (PICK,))) == [0, 1, 2]
    assert chosen(standings, Marks(0, ())) == [0]
    assert chosen(Standings([], OBJECTIVES, 0), Marks(None, (PICK,))) == []


def test_each_is_confirmed_by_a_few_runs() -> None:
    records, order = three(), []
    while (following := next_confirmation(records, [0, 1], 5)) is not None:
        order.append(following.number)
        index = order.count(following.number)
        records.append(confirming(len(records), following.number, index, (3.0, 1.0)))
    assert order == [0, 1] * CONFIRMING
    assert next_confirmation(three(), [0], 1, room=1) is None  # no other text
    waits = [*three(), record(3, [], state=REPEAT_RUNNING, repeat_of=0, repeat=1)]
    assert next_confirmation(waits, [0], 5) is None  # its result may change the choice


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_confirmed_interval_holds_for_the_best_of_many(spread: float) -> None:
    """Sixteen architectures that differ by nothing, or by half of the noise; the best is confirmed.

    The interval of all runs that chose it covers its true loss far less often.
    """
    naive, confirmed = [], []
    for seed in range(240):
        random = np.random.default_rng(seed)
        losses = (3 + spread * random.normal(size=16)).tolist()
        records = refined(losses, (10.0 + random.permutation(16)).tolist(), 1.0, 4, random, confirm=True)
        best = Standings(mean_over_runs(records), OBJECTIVES, 0).best[0]
        truth = losses[best.record.number]
        assert best.record.values is not None
        assert best.confirmed is not None
        assert best.confirmed.runs == CONFIRMING
        assert best.half[0] is not None
        assert best.confirmed.half[0] is not None
        naive.append(abs(best.record.values[0] - truth) <= best.half[0])
        confirmed.append(abs(best.confirmed.values[0] - truth) <= best.confirmed.half[0])
    print(f"spread {spread}: of all runs {np.mean(naive):.1%}, of the fresh runs {np.mean(confirmed):.1%}")
    assert 0.85 <= np.mean(confirmed) <= 0.95
    assert np.mean(naive) < 0.8
