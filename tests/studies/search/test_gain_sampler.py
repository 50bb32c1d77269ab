"""The sampler `gain`: what it suggests is new, allowed, repeatable and of the pool the most promising."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import load_space
from search_spaces.trial import RandomTrial, ReplayTrial
from studies.search.assignment import RANDOM_FIRST
from studies.search.candidates import CandidatePool, Neighbour
from studies.search.facts import ArchitectureFacts
from studies.study.settings import GAIN
from studies.surrogates import expected_improvement
from studies.surrogates.expected_improvement import scaled
from studies.surrogates.learning_curves import FEWEST, Prediction, extrapolate, predict_expected
from studies.surrogates.observations import Observations
from studies.workers.worker import work
from tests.studies.conftest import MakeStudy, search_of
from tests.studies.tables import observation_table

Quiet = Callable[[str], None]


@given(st.integers(0, 2**31))
def test_neighbours_are_of_the_space_and_keep_much_of_their_parent(seed: int) -> None:
    space = load_space("hybrid")
    parent = RandomTrial(seed)
    space.sample(parent)
    neighbour = Neighbour(parent.params, random.Random(seed))
    architecture = space.sample(neighbour)
    # the same parameters, replayed, give the same architecture: none was out of its range
    assert space.sample(ReplayTrial(neighbour.params)) == architecture
    assert space.params_of(architecture) is not None
    for name, value in neighbour.kept.items():
        if name in neighbour.params:
            assert neighbour.params[name] == value


def test_a_study_starts_at_random_and_goes_on_by_gain(make_study: MakeStudy, quiet: Quiet) -> None:
    studies = [make_study(name, sampler="gain", stopping="forecast") for name in ("one", "again")]
    for study in studies:
        work(study, target=3 + RANDOM_FIRST[GAIN] + 5, device="cpu", log=quiet)
    one, again = ([(item.hash, item.rungs) for item in study.records()] for study in studies)
    assert one == again
    records = [record for record in studies[0].records() if record.counted]
    sources = [record.suggested_by for record in records]
    assert sources == ["baseline"] * 3 + ["random"] * RANDOM_FIRST[GAIN] + ["gain"] * 5
    assert len({record.hash for record in records}) == len(records)
    for record in records[3:]:
        assert not studies[0].space.violations(record.build())
    by_gain = [record for record in studies[0].records() if record.suggested_by == "gain"]
    assert {record.state for record in by_gain} <= {"trained", "paused"}  # no infeasible, no duplicate


def test_it_is_the_best_of_the_pool_by_a_forecast(
    make_study: MakeStudy, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With costs ignored by a one-objective study, the largest gain is the lowest optimistic loss."""
    study = make_study(sampler="random")
    work(study, target=8, device="cpu", log=quiet)
    records = study.records()
    pool = search_of(study).gain.pool.new(records)
    wanted = pool[5][1]

    def predicted(observations: Observations, known: Prediction, costs: Any, features: Any) -> Prediction:
        assert len(costs) == len(features) == len(pool) + len(observations)  # these too, freed of noise
        mean = np.full(len(costs), 6.0)
        mean[5] = 1.0
        return Prediction(mean, np.full(len(costs), 0.01))

    monkeypatch.setattr(expected_improvement, "predict_expected", predicted)
    params = search_of(study).gain.suggest(records)
    assert params is not None
    assert study.space.sample(ReplayTrial(params)) == wanted
    assert wanted.hash not in {record.hash for record in records}


def test_while_losses_are_few_costs_are_spread(make_study: MakeStudy, quiet: Quiet) -> None:
    """Many workers start before the first results: each takes what costs least like the others."""
    study = make_study(sampler="gain")
    work(study, target=FEWEST - 1, device="cpu", log=quiet)
    search, records = search_of(study), study.records()
    assert search.gain.look(records) is None
    params, pool = search.gain.suggest(records), search.gain.pool.new(records)
    taken = [[*search.facts.costs(record).values()] for record in records if record.hash]
    costs = scaled(np.array([[*item.costs.values()] for item in pool] + taken))
    gaps = [min(((one - other) ** 2).sum() for other in costs[len(pool) :]) for one in costs[: len(pool)]]
    (chosen,) = (index for index, item in enumerate(pool) if item.params == params)
    assert gaps[chosen] == pytest.approx(max(gaps))


def test_an_exhausted_space_leaves_paused_runs_to_weigh(
    make_study: MakeStudy, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(sampler="random")
    work(study, target=5, device="cpu", log=quiet)
    gain, records = search_of(study).gain, [item for item in study.records() if item.counted]
    monkeypatch.setattr(gain.pool, "new", lambda records: [])
    outlook = gain.look(records)
    assert outlook is not None
    assert (outlook.params, outlook.gain) == (None, 0)
    assert (outlook.worth(range(len(outlook.observations))) >= 0).all()


def test_a_pool_is_of_random_ones_and_neighbours_each_once_and_new(
    make_study: MakeStudy, quiet: Quiet
) -> None:
    study = make_study(sampler="random")
    work(study, target=6, device="cpu", log=quiet)
    records = study.records()
    one, again = (CandidatePool(study.space, 7, ArchitectureFacts(study.space)) for _ in range(2))
    one.whole = again.whole = 0
    names = [item.architecture.hash for item in one.new(records)]
    assert names == [item.architecture.hash for item in again.new(records)]
    assert len(set(names)) == len(names)
    assert not set(names) & {record.hash for record in records}
    assert {kind for kind, _, _ in one.drawn} == {"pool", "near"}


def test_prospects_find_a_law_of_the_features(make_study: MakeStudy) -> None:
    rng = np.random.default_rng(0)
    features, costs = rng.normal(size=(60, 2)), rng.uniform(1, 9, (60, 1))
    results = 5 + 0.3 * features[:, 0] - 0.2 * np.log(costs[:, 0])
    known = observation_table(
        range(40), costs[:40].tolist(), [[value] for value in results[:40]], features[:40].tolist(), 1
    )
    result = predict_expected(known, extrapolate(known), costs[40:], features[40:])
    np.testing.assert_allclose(result.mean, results[40:], atol=0.02)
    few = observation_table(
        range(FEWEST - 1),
        costs[: FEWEST - 1].tolist(),
        [[5.0]] * (FEWEST - 1),
        features[: FEWEST - 1].tolist(),
        1,
    )
    assert not np.isfinite(predict_expected(few, extrapolate(few), costs, features).sd).any()


def test_gathered_costs_are_those_of_the_pool(make_study: MakeStudy, quiet: Quiet) -> None:
    """Costs of observations and of candidates are in the same order and sign."""
    study = make_study(sampler="random")
    work(study, target=4, device="cpu", log=quiet)
    observations = search_of(study).observe(study.records())
    for row, number in enumerate(observations.numbers.tolist()):
        exact, described = search_of(study).facts.of(study.record(number).build())
        assert observations.costs[row].tolist() == [exact["params"], exact["decode_flops@64"]]
        # NaN where an option stands nowhere
        np.testing.assert_array_equal(observations.features[row], described)
