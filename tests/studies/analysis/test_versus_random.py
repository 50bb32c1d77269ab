"""Comparison of a sampler's trials with random ones: error rates by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from search_spaces import SearchSpace
from studies.analysis.versus_random import (
    BEATEN,
    LEVEL,
    LOOKS,
    NOT_BEATEN,
    UNKNOWN,
    Comparison,
    compare,
    decide,
)
from studies.data import TokenData
from studies.search.assignment import RANDOM_FIRST, Assignment, take
from studies.search.requeue import requeue
from studies.study import Study
from studies.study.leases import Lease
from studies.study.trial_record import DONE, Run
from studies.workers.worker import work
from tests.studies.conftest import SPACE, MakeStudy, search_of, study_settings


def cloud(rng: np.random.Generator, count: int, better: float = 0.0) -> np.ndarray:
    """Loss against two costs that go together, as architectures have them."""
    size = rng.uniform(size=count)
    loss = 1 - 0.7 * size + 0.2 * rng.normal(size=count) - better
    return np.stack([loss, size, size + 0.3 * rng.uniform(size=count)], axis=1)


def comparison(random: int, sampled: int, better: float, seed: int, draws: int = 199) -> Comparison:
    rng = np.random.default_rng(seed)
    table = np.concatenate([cloud(rng, random), cloud(rng, sampled, better)])
    table = (table - table.min(axis=0)) / np.ptp(table, axis=0)
    return decide(list(table), [True] * random + [False] * sampled, "tpe", draws)


def outcomes(random: int, sampled: int, better: float, rounds: int) -> list[str]:
    return [comparison(random, sampled, better, seed).outcome for seed in range(rounds)]


@pytest.mark.parametrize(("random", "sampled"), [(10, 14), (5, 20), (20, 10)])
def test_chance_seldom_beats_chance(random: int, sampled: int) -> None:
    rounds = 60
    result = outcomes(random, sampled, better=0.0, rounds=rounds)
    assert result.count(BEATEN) / rounds <= 0.1
    assert result.count(NOT_BEATEN) / rounds >= 0.3


def test_a_better_sampler_is_seen() -> None:
    rounds = 30
    assert outcomes(10, 30, better=1.0, rounds=rounds).count(BEATEN) / rounds >= 0.8
    assert outcomes(20, 30, better=1.0, rounds=rounds).count(BEATEN) / rounds >= 0.5
    assert outcomes(10, 20, better=-1.0, rounds=rounds).count(NOT_BEATEN) / rounds >= 0.9


def test_nothing_is_decided_between_the_looks() -> None:
    rng = np.random.default_rng(3)
    table = np.concatenate([cloud(rng, 10), cloud(rng, 34, better=0.4)])
    table = (table - table.min(axis=0)) / np.ptp(table, axis=0)
    seen = {}
    for count in range(10, len(table) + 1):
        result = decide(list(table[:count]), [index < 10 for index in range(count)], "tpe", 99)
        seen[count - 10] = result.p, result.outcome, result.looks
    assert {seen[count] for count in range(10)} == {(None, UNKNOWN, ())}
    assert len({seen[count] for count in range(10, 30)}) == len({seen[count] for count in range(30, 35)}) == 1
    assert seen[10][2] == (10,)
    assert seen[30][2] == (10, 30)


@pytest.mark.slow
def test_chance_seldom_beats_chance_when_watched_after_every_trial() -> None:
    """A verdict stays and nothing is decided between the looks, so that the end of a study shows whether its
    watchers were misled."""
    rounds = 400
    said = sum(comparison(10, LOOKS[-1], better=0.0, seed=seed).outcome == BEATEN for seed in range(rounds))
    print(f"false alarms: {said / rounds:.1%}")
    assert said / rounds <= 0.07
    power = 60
    seen = sum(comparison(10, 30, better=0.3, seed=seed).outcome == BEATEN for seed in range(power))
    print(f"found out: {seen / power:.0%}")
    assert seen / power >= 0.35


def test_equal_groups_are_exact() -> None:
    """Five and ten with the random trials behind all others: p is the share of halves that are no better."""
    chance = [np.array([1.0, 1.0])] * 5
    sampled = [np.array([0.0, 0.0])] * 10
    result = decide([*chance, *sampled], [True] * 5 + [False] * 10, "tpe", draws=9000)
    assert result.p == pytest.approx(len(LOOKS) / 3003, abs=0.002)
    assert result.random_volume is not None
    assert result.random_volume < 0.01
    assert result.sampled_volume == pytest.approx(1.0)


def test_failures_count_against_those_who_have_them() -> None:
    rng = np.random.default_rng(0)
    chance = list(cloud(rng, 12) * 0.3 + 0.4)
    points = [*chance, *[None] * 10, chance[0], chance[1]]
    assert decide(points, [True] * 12 + [False] * 12, "tpe").outcome == NOT_BEATEN


def test_sentences() -> None:
    beaten = Comparison("tpe", BEATEN, 10, 14, 0.03, 0.4, 0.5, looks=(10,))
    assert str(beaten) == (
        "tpe has beaten random search of the same cost (p = 0.03 however often one looks, 10 random and "
        "14 tpe trials, last look at 10)"
    )
    assert "has not beaten" in str(Comparison("tpe", NOT_BEATEN, 10, 14, 0.7, 0.5, 0.4, looks=(10,)))
    unknown = str(Comparison("tpe", UNKNOWN, 10, 2))
    assert unknown == (
        "can't tell yet whether tpe beats random search: 10 random and 2 tpe trials, the first look is at "
        "10 tpe trials"
    )
    assert "random search itself" in str(Comparison("random", UNKNOWN, 9, 0))
    assert LEVEL == 0.05


@pytest.fixture(scope="module")
def study(tokens: TokenData, space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = Study.create("study", space, study_settings(tokens), tmp_path_factory.mktemp("runs"))
    work(made, target=3 + RANDOM_FIRST["tpe"] + LOOKS[0], device="cpu", log=lambda line: None)
    return made


def test_a_real_study_starts_at_random_and_says_so(study: Study) -> None:
    done = [record for record in study.records() if record.state == DONE]
    suggested = [record.suggested_by for record in done]
    assert suggested[:3] == ["baseline"] * 3
    assert suggested[3 : 3 + RANDOM_FIRST["tpe"]] == ["random"] * RANDOM_FIRST["tpe"]
    assert set(suggested[3 + RANDOM_FIRST["tpe"] :]) == {"tpe"}
    result = compare(study, study.records())
    assert (result.random, result.sampled) == (RANDOM_FIRST["tpe"], len(done) - 3 - RANDOM_FIRST["tpe"])
    assert result.p is not None
    assert compare(study, study.records()) == result


def test_a_study_of_before_is_not_judged(study: Study) -> None:
    old = [replace(record, suggested_by="") for record in study.records()]
    result = compare(study, old)
    assert (result.outcome, result.random, result.sampled) == (UNKNOWN, 0, 0)


def test_with_stopped_trials_all_are_taken_at_the_first_rung(study: Study) -> None:
    """It does not matter which of them were stopped after it."""
    records = study.records()
    done = [record.number for record in records if record.state == DONE]
    result = []
    for stopped in (done[-1:], done[5:9], done):
        changed = [
            replace(record, state="paused", values=None, tokens=1024) if record.number in stopped else record
            for record in records
        ]
        result.append(compare(study, changed))
    assert result[0] == result[1] == result[2]
    assert result[0].rung == 0.5
    assert "losses at 50% of the proxy" in str(result[0])
    assert (result[0].random, result[0].sampled) == (RANDOM_FIRST["tpe"], len(done) - 3 - RANDOM_FIRST["tpe"])
    whole = compare(study, records)
    assert whole.rung == 1.0
    assert whole.random_volume != result[0].random_volume


def test_a_trial_that_was_put_back_keeps_its_origin(make_study: MakeStudy) -> None:
    study = make_study(text=SPACE.replace("baselines: [dense, hdpl-paper, lt2-looped]", "baselines: []"))
    with Lease(study.workers_folder) as lease:
        first = take(search_of(study), lease.worker, None)
        assert isinstance(first, Assignment)
        number = first.trial.number
        assert study.record(number).suggested_by == "random"
        requeue(study, number)
        search_of(study).sampler.explore = False
        again = take(search_of(study), lease.worker, None)
        assert isinstance(again, Assignment)
        assert again.trial.number == number
        assert study.record(number).suggested_by == "random"


def test_replicates_change_nothing(study: Study) -> None:
    """They were suggested by nobody, and repeat what was already good."""
    records = study.records()
    best = min((record for record in records if record.state == DONE), key=lambda record: record.values or ())
    assert best.values is not None
    better = tuple(value - 1 for value in best.values)
    mean = replace(best, values=better, runs=(*best.runs, Run(len(records), better)))
    repeat = replace(best, number=len(records), state="repeat", values=better, repeat_of=best.number, runs=())
    refined = [mean if record.number == best.number else record for record in records] + [repeat]
    assert compare(study, refined) == compare(study, records)
