"""The private names of Optuna that this project needs, in one module.

Optuna has no public way to write an attribute or a state of a trial that this process did not ask for, and no
public way to make a trial that runs under a given set of attributes. A test forbids these names elsewhere.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState, create_trial

from studies.storage.journal import Embedded

AnyTrial = optuna.Trial | FrozenTrial


def storage_of(study: optuna.Study) -> BaseStorage:
    """Return the storage that the study is in."""
    return study._storage


def study_id(study: optuna.Study) -> int:
    """Return the study's id in its storage."""
    return study._study_id


def trial_id(trial: AnyTrial) -> int:
    """Return the trial's id in its storage."""
    return trial._trial_id


def stored_trial(study: optuna.Study, number: int) -> FrozenTrial:
    """Return a trial as it is stored now.

    Raises:
        KeyError: the study has no trial of this number.
    """
    if number < 0:
        raise KeyError(number)
    storage = study._storage
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def refreshed(study: optuna.Study, trial: AnyTrial) -> FrozenTrial:
    """Return the trial as it is stored now."""
    return study._storage.get_trial(trial._trial_id)


def set_attr(study: optuna.Study, trial: AnyTrial, key: str, value: Any) -> None:
    """Write a user attribute of an unfinished trial, whichever process runs it."""
    study._storage.set_trial_user_attr(trial._trial_id, key, value)


def set_system_attr(study: optuna.Study, trial: AnyTrial, key: str, value: Any) -> None:
    """Write a system attribute of an unfinished trial."""
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


def set_state(study: optuna.Study, trial: AnyTrial, state: TrialState) -> bool:
    """Change the state of an unfinished trial. False: another process was faster to set it running."""
    return study._storage.set_trial_state_values(trial._trial_id, state)


def as_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """Return the handle through which a stored trial is sampled and annotated."""
    return optuna.Trial(study, trial._trial_id)


def create_running_trial(
    study: optuna.Study, params: dict[str, Any], attributes: dict[str, Any]
) -> optuna.Trial:
    """Create a trial that runs from its first moment, with these parameters and user attributes."""
    template = create_trial(
        state=TrialState.RUNNING, system_attrs={"fixed_params": params}, user_attrs=attributes
    )
    return optuna.Trial(study, study._storage.create_new_trial(study._study_id, template_trial=template))


def trials_of(storage: BaseStorage, study: FrozenStudy) -> list[FrozenTrial]:
    """Return every trial of one of the storage's studies."""
    return storage.get_all_trials(study._study_id, deepcopy=False)


def study_system_attrs(study: optuna.Study) -> dict[str, Any]:
    """Return the study's system attributes."""
    return study._storage.get_study_system_attrs(study._study_id)


def set_study_system_attr(study: optuna.Study, key: str, value: Any) -> None:
    """Write a system attribute of the study."""
    study._storage.set_study_system_attr(study._study_id, key, value)


def batched_writes(study: optuna.Study) -> AbstractContextManager[None]:
    """Group writes into one atomic append. Only the embedded storage can; others write one by one."""
    storage = study._storage
    return (
        cast("AbstractContextManager[None]", storage.batch())
        if isinstance(storage, Embedded)
        else nullcontext()
    )
