"""Studies filled with random trials whose losses are a function of ours, and whose costs are real."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna

from search_spaces.trial import RandomTrial
from studies.storage.attributes import ARCHITECTURE, HASH, LINE, METRICS
from studies.study import Study
from surgery.architecture.costs import cost

Loss = Callable[[dict[str, object], np.random.Generator], float]


def fill(study: Study, count: int, loss: Loss) -> Study:
    """Random trials of the study's space with a loss of our own and their real costs."""
    rng = np.random.default_rng(0)
    names = [item.name for item in study.space.objectives[1:]]
    for seed in range(count):
        trial = study.inner.ask()
        random = RandomTrial(seed)
        architecture = study.space.sample(random)
        study.space.sample(_Recorder(trial, random.params))
        for key, value in (
            (ARCHITECTURE, architecture.to_dict()), (HASH, architecture.hash), (LINE, architecture.line),
        ):  # fmt: skip
            trial.set_user_attr(key, value)
        values = [loss(random.params, rng), *(float(cost(architecture, name)) for name in names)]
        trial.set_user_attr(METRICS, dict(zip(("val_loss", *names), values, strict=True)))
        study.inner.tell(trial, values)
    return study


class _Recorder:
    """Gives a trial the parameters that were drawn, with the space's own distributions."""

    def __init__(self, trial: optuna.Trial, params: dict[str, object]) -> None:
        self.trial, self.params = trial, params

    def suggest_categorical(self, name: str, choices: tuple[object, ...], /) -> object:
        return self._set(name, optuna.distributions.CategoricalDistribution(choices))

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int = 1) -> object:
        return self._set(name, optuna.distributions.IntDistribution(low, high, step=step))

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> object:
        return self._set(name, optuna.distributions.FloatDistribution(low, high, log=log))

    def _set(self, name: str, distribution: optuna.distributions.BaseDistribution) -> object:
        value = self.params[name]
        internal = distribution.to_internal_repr(value)
        storage = self.trial.study._storage
        storage.set_trial_param(self.trial._trial_id, name, internal, distribution)
        return value
