"""Importance of searched fields for the front and for the loss, and a test for any effect.

Importances are Optuna's PED-ANOVA (Watanabe et al. 2023; with conditional fields as in arXiv 2601.20800):
the divergence of a field's values in the best trials from those in all trials, normalised to a sum of 1. They
always add up to 1, so that some field looks important even in pure noise. Whether a field has any effect on
the loss is therefore tested separately. A sampler chooses fields jointly, so that one without effect goes
with one that has an effect. The test takes away what the other fields explain, and permutes what is left over
(`studies.stats.partial_effect`). Importances consider one field at a time, and are confounded.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from search_spaces.objectives import Objective
from search_spaces.trial import ReplayTrial
from studies.stats.partial_effect import partial_effect_p
from studies.stats.seeds import derive_seed
from studies.study import Study
from studies.study.trial_record import DONE, TrialRecord
from surgery.architecture.costs import cost
from surgery.config.problems import Problem, UserError

BEST = 0.1  # share of the trials that importances count as best, but at least BEST_TRIALS
BEST_TRIALS = 5  # recommended by Optuna's documentation
FEWEST = 10  # trials for importances
ABSENT = -1  # group of a trial without the field
MOST_VALUES = 5  # a field with more distinct values is grouped into quarters
LOOKED_AT = 8  # trials whose field is changed to test its effect on costs


@dataclass(frozen=True)
class Field:
    """A parameter of the search, such as `hdpl.rank` or `hdpl.projections.q`.

    Attributes:
        front, loss: PED-ANOVA importances, each adding up to 1 over all fields.
        p: of the test on the loss, given the other fields; None for a field that has a single value, or goes
            with the others in all trials.
        spread: highest minus lowest mean loss over the field's values (or quarters), in the loss's unit.
        trials: number of trials that have the field.
        changes_architecture: whether another value gives another architecture; exact, without training.
        changes_costs: whether another value changes a cost among the objectives; exact as well.
    """

    name: str
    front: float
    loss: float
    p: float | None
    spread: float
    trials: int
    changes_architecture: bool
    changes_costs: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Importances:
    """Fields by their importance for the front, highest first.

    Attributes:
        loss_name: the measured objective.
        loss_spread: its standard deviation over the trials.
        trials: number of trials considered.
        best: number of them that importances count as best.
    """

    fields: tuple[Field, ...]
    loss_name: str
    loss_spread: float
    trials: int
    best: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "loss": self.loss_name,
            "loss_spread": self.loss_spread,
            "trials": self.trials,
            "best": self.best,
            "fields": [field.to_dict() for field in self.fields],
        }


def importances(study: Study) -> Importances:
    """Return the importances over the trained trials; baselines outside of the space have no fields.

    Raises:
        UserError: fewer than FEWEST trials are trained.
    """
    records = [
        record for record in study.records() if record.state == DONE and record.params and record.values
    ]
    if len(records) < FEWEST:
        rule = f"has {len(records)} trained architectures of its space; importances need {FEWEST}"
        raise UserError("too early for importances", [Problem("study", study.name, rule, "search on")])
    objectives = study.space.objectives
    column = next(index for index, item in enumerate(objectives) if item.measured)
    sign = 1 if objectives[column].direction == "min" else -1
    trials = study.inner.get_trials(deepcopy=False)
    copy = _copy(study, [trials[record.number] for record in records])
    share = max(BEST, min(0.5, BEST_TRIALS / len(records)))
    front = _shares(copy, share, None if len(objectives) > 1 else lambda trial: sign * trial.values[0])
    loss = _shares(copy, share, lambda trial: sign * trial.values[column])
    losses = np.array([record.values[column] for record in records if record.values])
    p = effects([record.params for record in records], losses)
    fields = [
        _field(study, name, (front[name], loss[name]), p[name], records, losses, objectives)
        for name in sorted(front, key=lambda name: -front[name])
    ]
    best = math.ceil(share * len(records))
    return Importances(tuple(fields), objectives[column].name, float(losses.std()), len(records), best)


def _copy(study: Study, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """Return an in-memory study of these trials, without duplicates, which would count twice."""
    copy = optuna.create_study(directions=study.inner.directions)
    copy.add_trials(trials)
    return copy


def _shares(study: optuna.Study, share: float, target: Any) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the direction of targets and rarely met conditions
        evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
        return get_param_importances(study, evaluator=evaluator, target=target)


def _field(
    study: Study, name: str, shares: tuple[float, float], p: float | None, records: Sequence[TrialRecord],
    losses: NDArray[np.float64], objectives: Sequence[Objective],
) -> Field:  # fmt: skip
    having = [index for index, record in enumerate(records) if name in record.params]
    groups = grouped([records[index].params[name] for index in having])
    own = losses[having]
    means = [own[groups == group].mean() for group in np.unique(groups)]
    changes = _changes(study, name, [records[index] for index in having], objectives)
    return Field(name, *shares, p, float(max(means) - min(means)), len(having), *changes)


def effects(params: Sequence[Mapping[str, Any]], losses: NDArray[np.float64]) -> dict[str, float | None]:
    """Return for each field the p-value of its effect on the loss, given the other fields.

    Args:
        params: of each trial, by field; a conditional field is tested in the trials that have it, and to
            other fields its absence is one more value.
        losses: (trials,).
    """
    names = sorted({name for of in params for name in of})
    having = {name: np.array([index for index, of in enumerate(params) if name in of]) for name in names}
    groups = {}
    for name in names:
        groups[name] = np.full(len(params), ABSENT)
        groups[name][having[name]] = grouped([params[index][name] for index in having[name]])
    return {
        name: partial_effect_p(
            groups[name][having[name]],
            [groups[other][having[name]] for other in names if other != name],
            losses[having[name]],
            derive_seed("importance", name),
        )
        for name in names
    }


def grouped(values: Sequence[Any]) -> NDArray[np.int64]:
    """Return the group number of each value: one group per distinct value, or quarters by rank if many."""
    distinct = sorted(set(values))
    if len(distinct) <= MOST_VALUES:
        return np.array([distinct.index(value) for value in values])
    from scipy.stats import rankdata

    order = rankdata(np.array(values, dtype=float)) - 1  # equal values share a group
    return np.asarray(order * 4 // len(values), dtype=np.int64)


def _changes(
    study: Study, name: str, records: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> tuple[bool, bool]:
    """Return whether other values of the field change the architecture, and the costs, in a few trials."""
    exact = [item.name for item in objectives if item.metric.analytic]  # other blocks may not be timed
    architecture = costs = False
    for record in records[:LOOKED_AT]:
        here = study.space.sample(ReplayTrial(record.params))
        for value in other_values(study, record, name):
            there = study.space.sample(ReplayTrial({**record.params, name: value}))
            architecture = architecture or there.hash != here.hash
            costs = costs or any(cost(here, item) != cost(there, item) for item in exact)
        if architecture and costs:
            break
    return architecture, costs


def other_values(study: Study, record: TrialRecord, name: str) -> list[Any]:
    """Return a few other values of a trial's field, including both ends of its range."""
    replay = ReplayTrial(record.params)
    study.space.sample(replay)
    return [value for value in replay.domains.get(name, ()) if value != record.params[name]]
