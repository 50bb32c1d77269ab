"""Optuna samplers by name, reseeded for each trial so that a resumed study equals an uninterrupted one."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from copy import copy
from statistics import fmean
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from studies.stats.seeds import derive_seed
from studies.storage.attributes import CONFIRMS, REPEAT, REPEAT_OF
from studies.study.settings import GAIN, MILP
from surgery.config.problems import Problem, UserError, nearest

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    # `group` splits a conditional space into its sub-spaces; without it conditional fields are sampled singly
    "tpe": lambda seed: optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, n_startup_trials=10
    ),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed, population_size=16),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    # what `studies.search.gain_sampler` can't choose, at the start and when its pool is empty, is random
    GAIN: lambda seed: optuna.samplers.RandomSampler(seed=seed),
    MILP: lambda seed: optuna.samplers.RandomSampler(seed=seed),  # once the solver's designs are all taken
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
HISTORY = 500  # trials of each state that TPE sees


def check_sampler(name: str) -> None:
    """Check the name of a sampler.

    Raises:
        UserError: no sampler has that name.
    """
    if name not in SAMPLERS:
        rule = f"must be one of {', '.join(SAMPLERS)}"
        raise UserError("unknown sampler", [Problem("sampler", name, rule, nearest(name, SAMPLERS))])


class _View:
    """A study as a sampler sees it: paused trials with their predicted results, and only the newest trials.

    Replicates are left out, since they are no suggestions: the trials they repeat have the means of all runs.
    TPE's time grows with every trial it looks at, so that it sees only the newest of each state. Genetic
    samplers look up the parents they noted by number, so that they see every trial.
    """

    def __init__(self, study: Study, name: str, expected: Mapping[int, Sequence[float]]) -> None:
        self._study, self._name, self._expected = study, name, expected

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._study._get_trials(deepcopy, None, use_cache)
        if not self._name.startswith("nsga"):
            trials = without_repeats(trials)
        shown = [self._ended(trial) if trial.number in self._expected else trial for trial in trials]
        if self._name == "tpe" and len(shown) > HISTORY:
            left = dict.fromkeys(TrialState, HISTORY)
            kept = []
            for trial in reversed(shown):
                left[trial.state] -= 1
                if left[trial.state] >= 0:
                    kept.append(trial)
            shown = kept[::-1]
        return [trial for trial in shown if states is None or trial.state in states]

    def _ended(self, trial: FrozenTrial) -> FrozenTrial:
        ended = copy(trial)
        ended.state, ended.values = TrialState.COMPLETE, list(self._expected[trial.number])
        return ended


class SeededSampler(BaseSampler):
    """A sampler that delegates to Optuna samplers made anew for each trial from (study seed, trial number).

    Optuna's own samplers restart their random stream on resume and so repeat themselves; this one gives a
    trial the same draws whether the study was interrupted before it or not. Parameters that are drawn singly
    have one stream each, so that a trial interrupted between two of them resumes with the same draws.

    Attributes:
        explore: draw the next trials at random, for when the sampler keeps suggesting known architectures.
        expected: by number, the predicted objectives of paused trials; the sampler learns from them.
    """

    def __init__(self, name: str, seed: int) -> None:
        check_sampler(name)
        self.name, self.seed = name, seed
        self.explore = False
        self.expected: Mapping[int, Sequence[float]] = {}
        self._startup = False
        self.inner = self._make("relative", 0)

    @property
    def source(self) -> str:
        """Origin of the last trial's parameters: `random`, also while the sampler starts up, or its name."""
        return "random" if self.explore or self._startup else self.name

    @property
    def looks_at_trials(self) -> bool:
        """Return whether it learns from other trials; for `gain`, Optuna only draws at random."""
        return self.name not in (GAIN, MILP, "random")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler for this trial."""
        self._startup = False
        self.inner = self._make("relative", trial.number)
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that the inner sampler draws jointly."""
        return self.inner.infer_relative_search_space(self._view(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the jointly drawn parameters; empty while the inner sampler starts up."""
        drawn = self.inner.sample_relative(self._view(study), trial, search_space)
        # with too few trials to learn from, all of Optuna's samplers leave every draw to chance
        self._startup = not drawn
        return drawn

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a single parameter, drawn from a stream of its own."""
        single = self._make(param_name, trial.number)
        return single.sample_independent(self._view(study), trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass the result on to the inner sampler."""
        self.inner.after_trial(study, trial, state, values)

    def _view(self, study: Study) -> Study:
        return cast(Study, _View(study, self.name, self.expected))

    def _make(self, stream: str, number: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`
            name = "random" if self.explore else self.name
            return SAMPLERS[name](derive_seed(self.seed, stream, number))


def without_repeats(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials without replicates; those they repeat have means over runs, but confirming ones."""
    values: dict[int, dict[int, list[float]]] = defaultdict(dict)
    for trial in trials:
        number = trial.user_attrs.get(REPEAT_OF)
        if number is not None and trial.values is not None and CONFIRMS not in trial.user_attrs:
            values[number].setdefault(trial.user_attrs[REPEAT], trial.values)
    kept = [trial for trial in trials if REPEAT_OF not in trial.user_attrs]
    if not values:
        return kept
    for index, trial in enumerate(kept):
        if trial.number in values and trial.values is not None:
            runs = [trial.values, *values[trial.number].values()]
            kept[index] = copy(trial)  # the storage's own stays as it is
            kept[index].values = [fmean(column) for column in zip(*runs, strict=True)]
    return kept
