"""Samplers: the draws of a trial follow from (study seed, trial number) and the results before it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from studies.search.samplers import HISTORY, SAMPLERS, SeededSampler, check_sampler
from studies.stats.seeds import derive_seed
from surgery.config.problems import UserError

CHEAP = [name for name in SAMPLERS if name != "gp"]


def draw(trial: optuna.Trial) -> tuple[object, ...]:
    """A conditional space: `b` only matters beside the first `a`."""
    a = trial.suggest_categorical("a", ["x", "y", "z"])
    b = trial.suggest_float("b", 0.0, 1.0) if a == "x" else None
    return a, b, trial.suggest_int("c", 0, 1000)


def make(name: str, seed: int = 0, storage: optuna.storages.BaseStorage | None = None) -> optuna.Study:
    return optuna.create_study(
        storage=storage, directions=["minimize"] * 2, sampler=SeededSampler(name, seed), study_name="s"
    )


def go_on(study: optuna.Study, count: int) -> list[tuple[object, ...]]:
    result = []
    for _ in range(count):
        trial = study.ask()
        values = draw(trial)
        result.append(values)
        study.tell(trial, [float(str(values[2])), 1.0 if values[0] == "x" else 2.0])
    return result


@pytest.mark.parametrize("name", CHEAP)
def test_stopping_changes_no_draw(name: str) -> None:
    whole = go_on(make(name), 40)
    storage = optuna.storages.InMemoryStorage()
    study = make(name, storage=storage)
    parts = go_on(study, 3)
    for count in (1, 8, 12, 16):
        study = optuna.load_study(study_name="s", storage=storage, sampler=SeededSampler(name, 0))
        parts += go_on(study, count)
    assert parts == whole
    assert len(set(whole)) > 30  # no draws are repeated, as Optuna's own samplers do on resume
    assert go_on(make(name, seed=1), 40) != whole


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_trial_cut_off_between_two_draws(name: str, cut: int) -> None:
    whole = go_on(make(name), 30)
    storage = optuna.storages.InMemoryStorage()
    study = make(name, storage=storage)
    go_on(study, 29)
    trial = study.ask()
    if cut > 0:
        trial.suggest_categorical("a", ["x", "y", "z"])
    if cut > 1 and whole[29][0] == "x":
        trial.suggest_float("b", 0.0, 1.0)
    storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.WAITING)
    study = optuna.load_study(study_name="s", storage=storage, sampler=SeededSampler(name, 0))
    assert go_on(study, 1) == whole[29:]


def test_single_draws_do_not_depend_on_their_order() -> None:
    drawn = []
    for names in ("abc", "ca"):
        trial = make("random", seed=3).ask()
        drawn.append({name: trial.suggest_float(name, 0, 1) for name in names})
    assert drawn[0]["a"] == drawn[1]["a"]
    assert drawn[0]["c"] == drawn[1]["c"]
    assert len(set(drawn[0].values())) == 3


def test_exploring_is_random() -> None:
    study = make("tpe")
    go_on(study, 20)
    study.sampler.explore = True  # type: ignore[attr-defined]
    explored = go_on(study, 1)
    other = make("random")
    go_on(other, 20)
    assert explored == go_on(other, 1)


def test_seeds_are_the_same_everywhere() -> None:
    assert derive_seed(0, "tpe", 1) == 3058723616
    assert len({derive_seed(0, "x", number) for number in range(1000)}) == 1000
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_unknown_sampler_is_told() -> None:
    with pytest.raises(UserError, match='did you mean "random"'):
        check_sampler("randon")


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_long_histories(name: str, tmp_path: Path) -> None:
    """TPE looks at the newest trials of each state, genetic samplers find their parents among all."""
    study = make(name)
    space = {"a": CategoricalDistribution(["x", "y", "z"]), "c": FloatDistribution(0, 1)}
    state = optuna.trial.TrialState
    study.add_trials(
        optuna.create_trial(
            state=state.COMPLETE if number % 3 == 0 else state.PRUNED,
            values=[float(number), -float(number)] if number % 3 == 0 else None,
            params={"a": "xyz"[number % 3], "c": number / 2000},
            distributions=space,
        )
        for number in range(2000)
    )
    sampler = study.sampler
    assert isinstance(sampler, SeededSampler)
    seen = sampler._view(study)._get_trials(deepcopy=False, states=None, use_cache=False)
    expected = 2 * HISTORY if name == "tpe" else 2000
    assert len(seen) == expected
    assert seen == sorted(seen, key=lambda trial: trial.number)
    assert seen[-1].number == 1999
    trial = study.ask(space)
    assert trial.params["a"] in "xyz"
