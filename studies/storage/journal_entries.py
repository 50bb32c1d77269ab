"""Checks of a journal's entries, so that damage is reported at the line where it is.

They apply to entries without a checksum, of older versions and of other tools, given the replayed state.
Entries for trials that were never created, which Optuna skips silently, are damage: lines were lost or moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult
from optuna.trial import FrozenTrial, TrialState

from studies.storage import attributes as records
from surgery.config.problems import Problem

STUDY = "nas"  # the user attribute of an Optuna study that nas made
_NAMES = "study:metric_names"


class Kind(NamedTuple):
    """A kind of value: its name, and a function that returns whether a value is of this kind."""

    name: str
    holds: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _list_of(kind: Kind) -> Kind:
    return Kind(
        f"a list, each {kind.name}", lambda value: isinstance(value, list) and all(map(kind.holds, value))
    )


def _object_of(kind: Kind) -> Kind:
    return Kind(
        f"an object, each value {kind.name}",
        lambda value: isinstance(value, dict) and all(map(kind.holds, value.values())),
    )


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.name} or null", lambda value: value is None or kind.holds(value))


ANY = Kind("a value", lambda value: True)
TEXT = Kind("text", lambda value: isinstance(value, str))
NUMBER = Kind("a number", _is_number)
FINITE = Kind("a finite number", lambda value: _is_number(value) and math.isfinite(value))
INDEX = Kind("a whole number from 0", lambda value: _is_whole(value, 0))
COUNT = Kind("a whole number from 1", lambda value: _is_whole(value, 1))
DURATION = Kind("a number from 0", lambda value: FINITE.holds(value) and value >= 0)
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
TIME = Kind("a time with its zone", _is_time)
OBJECT = _object_of(ANY)
NUMBERS, METRICS, TEXTS = _list_of(NUMBER), _object_of(NUMBER), _list_of(TEXT)
STATE = Kind("the number of a state", lambda value: value in [state.value for state in TrialState])

TRIAL_ATTRIBUTES = {
    records.ARCHITECTURE: OBJECT,
    records.LINE: TEXT,
    records.HASH: TEXT,
    records.BASELINE: TEXT,
    records.WORKER: _or_null(TEXT),
    records.SEEDS: _list_of(INDEX),
    records.REASON: TEXT,
    records.DUPLICATE: INDEX,
    records.METRICS: METRICS,
    records.ENVIRONMENT: _object_of(TEXT),
    records.SECONDS: DURATION,
    records.SUGGESTED_BY: TEXT,
    records.DEATHS: INDEX,
    records.RUNGS: NUMBERS,
    records.STEPS: COUNT,
    records.TOKENS: COUNT,
    records.MEASURED: METRICS,
    records.STOPPED_AT: _or_null(COUNT),
    records.PASSED: _or_null(INDEX),
    records.REPEAT_OF: INDEX,
    records.REPEAT: COUNT,
    records.CONFIRMS: COUNT,
    "heartbeat": NUMBER,
}
SYSTEM_ATTRIBUTES = {"constraints": NUMBERS, "fixed_params": OBJECT, _NAMES: TEXTS}
SETTINGS = {
    "space": TEXT,
    **dict.fromkeys(("seed", "threads"), INDEX),
    **dict.fromkeys(
        (
            "sampler",
            "corpus",
            "tokenizer",
            "data_hash",
            "data_folder",
            "stopping",
            "compile",
            "cpu_precision",
        ),
        TEXT,
    ),
}
PICK = {
    "trial": INDEX,
    **dict.fromkeys(("name", "hash", "reason", "machine"), TEXT),
    **dict.fromkeys(("best", "output"), _or_null(TEXT)),
    **dict.fromkeys(("asked", "portable"), TRUTH),
    "limits": TEXTS,
    "at": TIME,
}
NEEDED_WHEN_DONE = (records.ARCHITECTURE, records.LINE, records.HASH, records.METRICS)

_TRIAL, _STUDY = {"trial_id": INDEX}, {"study_id": INDEX}
FIELDS: dict[int, dict[str, Kind]] = {
    JournalOperation.CREATE_STUDY: {"study_name": TEXT, "directions": _list_of(INDEX)},
    JournalOperation.DELETE_STUDY: _STUDY,
    JournalOperation.SET_STUDY_USER_ATTR: {**_STUDY, "user_attr": OBJECT},
    JournalOperation.SET_STUDY_SYSTEM_ATTR: {**_STUDY, "system_attr": OBJECT},
    JournalOperation.CREATE_TRIAL: {**_STUDY, "datetime_start": _or_null(TEXT)},
    JournalOperation.SET_TRIAL_PARAM: {
        **_TRIAL, "param_name": TEXT, "param_value_internal": NUMBER, "distribution": TEXT,
    },
    JournalOperation.SET_TRIAL_STATE_VALUES: {**_TRIAL, "state": STATE, "values": _or_null(NUMBERS)},
    JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE: {**_TRIAL, "step": INDEX, "intermediate_value": NUMBER},
    JournalOperation.SET_TRIAL_USER_ATTR: {**_TRIAL, "user_attr": OBJECT},
    JournalOperation.SET_TRIAL_SYSTEM_ATTR: {**_TRIAL, "system_attr": OBJECT},
    JournalOperation.DISCARD_TRIALS: {},
}  # fmt: skip
OPTIONAL = {  # of CREATE_TRIAL
    "state": STATE,
    "value": _or_null(NUMBER),
    "values": _or_null(NUMBERS),
    "datetime_complete": _or_null(TEXT),
    "distributions": _object_of(TEXT),
    "params": METRICS,
    "user_attrs": OBJECT,
    "system_attrs": OBJECT,
    "intermediate_values": METRICS,
}


def wrong(entry: Mapping[str, Any], known: JournalStorageReplayResult) -> str:
    """Describe what is wrong with an entry, given the replayed state; empty if nothing is."""
    if not isinstance(entry.get("worker_id"), str):
        return "worker_id must be text"
    op = entry.get("op_code")
    if not isinstance(op, int) or isinstance(op, bool) or op not in FIELDS:
        return f"op_code must be one of 0 to {max(FIELDS)}, not {_shown(op)}"
    for name, kind in FIELDS[op].items():
        if not kind.holds(entry.get(name)):
            return f"{name} must be {kind.name}, not {_shown(entry.get(name))}"
    if "study_id" in FIELDS[op] and entry["study_id"] >= known._next_study_id:
        return f"study {entry['study_id']} was not created before"
    if "trial_id" in FIELDS[op] and entry["trial_id"] >= len(known._trials):
        return f"trial {entry['trial_id']} was not created before"
    check = _CHECKS.get(op)
    return "" if check is None else check(entry, known)


def _shown(value: object) -> str:
    return Problem("", value, "").shown


def _attributes(attributes: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str:
    for key, value in attributes.items():
        kind = NUMBER if key.startswith("constraints:") else kinds.get(key, ANY)
        if not kind.holds(value):
            return f"{key} must be {kind.name}, not {_shown(value)}"
    return ""


def _study_created(entry: Mapping[str, Any], known: JournalStorageReplayResult) -> str:
    return "" if entry["directions"] else "directions must name at least one objective"


def _study_attribute(entry: Mapping[str, Any], known: JournalStorageReplayResult) -> str:
    settings = entry["user_attr"].get(STUDY, {"space": ""})
    if not isinstance(settings, dict) or "space" not in settings:
        return f"{STUDY} must be an object with a space, not {_shown(settings)}"
    return _attributes(settings, SETTINGS)


def _study_system_attribute(entry: Mapping[str, Any], known: JournalStorageReplayResult) -> str:
    attributes, study = entry["system_attr"], known._studies.get(entry["study_id"])
    fault = _attributes(attributes, SYSTEM_ATTRIBUTES)
    if not fault and _NAMES in attributes and study and len(attributes[_NAMES]) != len(study.directions):
        return f"{_NAMES} must name {len(study.directions)} objectives"
    for key, value in attributes.items():
        if not fault and key.startswith(records.PICK):
            fault = _pick(key, value, entry["study_id"], known)
    return fault


def _pick(key: str, value: Any, study_id: int, known: JournalStorageReplayResult) -> str:
    if not isinstance(value, dict) or not value.keys() >= PICK.keys():
        return f"{key} must be an object with {', '.join(PICK)}, not {_shown(value)}"
    return _attributes(value, PICK) or _refers(value["trial"], key, study_id, known)


def _trial_created(entry: Mapping[str, Any], known: JournalStorageReplayResult) -> str:
    for name, kind in OPTIONAL.items():
        if name in entry and not kind.holds(entry[name]):
            return f"{name} must be {kind.name}, not {_shown(entry[name])}"
    user, system = entry.get("user_attrs", {}), entry.get("system_attrs", {})
    fault = _attributes(user, TRIAL_ATTRIBUTES) or _attributes(system, SYSTEM_ATTRIBUTES)
    study_id = entry["study_id"]
    if not fault and records.REPEAT_OF in user:
        fault = _refers(user[records.REPEAT_OF], records.REPEAT_OF, study_id, known)
    if not fault and entry.get("state") == TrialState.COMPLETE.value:
        values = entry.get("values") or [entry.get("value")]
        fault = _complete(user, values, study_id, known)
    return fault


def _trial_attribute(entry: Mapping[str, Any], known: JournalStorageReplayResult) -> str:
    attributes, trial = entry["user_attr"], known._trials[entry["trial_id"]]
    fault = _attributes(attributes, TRIAL_ATTRIBUTES)
    if fault:
        return fault
    study_id = known._trial_id_to_study_id[entry["trial_id"]]
    for key in (records.DUPLICATE, records.REPEAT_OF):
        if key in attributes:
            return _refers(attributes[key], key, study_id, known)
    at = attributes.get(records.STOPPED_AT)
    if at is not None:
        needed = (records.ARCHITECTURE, records.HASH, records.LINE)
        missing = [key for key in needed if key not in trial.user_attrs]
        if missing:
            return f"trial {trial.number} stopped without {' and '.join(missing)}"
        if len(trial.user_attrs.get(records.RUNGS, ())) < at:
            return f"trial {trial.number} stopped at rung {at}, which it did not reach"
    return ""


def _trial_system_attribute(entry: Mapping[str, Any], known: JournalStorageReplayResult) -> str:
    return _attributes(entry["system_attr"], SYSTEM_ATTRIBUTES)


def _trial_state(entry: Mapping[str, Any], known: JournalStorageReplayResult) -> str:
    trial: FrozenTrial = known._trials[entry["trial_id"]]
    state = TrialState(entry["state"])
    if state == TrialState.RUNNING and not isinstance(entry.get("datetime_start"), str):
        return "datetime_start must be text"
    if state.is_finished() and not isinstance(entry.get("datetime_complete"), str):
        return "datetime_complete must be text"
    if state != TrialState.COMPLETE or trial.state.is_finished():
        return ""
    study_id = known._trial_id_to_study_id[entry["trial_id"]]
    return _complete(trial.user_attrs, entry["values"] or [], study_id, known)


def _refers(number: int, name: str, study_id: int, known: JournalStorageReplayResult) -> str:
    count = len(known._study_id_to_trial_ids[study_id])
    return "" if number < count else f"{name} is {number}, and there are {count} trials before"


def _complete(
    attributes: Mapping[str, Any], values: list[Any], study_id: int, known: JournalStorageReplayResult
) -> str:
    """Describe what a finished trial of one of nas' studies lacks; empty if nothing."""
    study = known._studies.get(study_id)
    if study is None or STUDY not in study.user_attrs:
        return ""
    missing = [name for name in NEEDED_WHEN_DONE if name not in attributes]
    if missing:
        return f"a trial ends without {' and '.join(missing)}"
    names = study.system_attrs.get(_NAMES, [])
    missing = [name for name in names if name not in attributes[records.METRICS]]
    if missing:
        return f"a trial ends without {' and '.join(missing)}"
    if len(values) != len(study.directions) or not all(map(FINITE.holds, values)):
        return f"values must be {len(study.directions)} finite numbers, not {_shown(values)}"
    return ""


_CHECKS: dict[int, Callable[[Mapping[str, Any], JournalStorageReplayResult], str]] = {
    JournalOperation.CREATE_STUDY: _study_created,
    JournalOperation.SET_STUDY_USER_ATTR: _study_attribute,
    JournalOperation.SET_STUDY_SYSTEM_ATTR: _study_system_attribute,
    JournalOperation.CREATE_TRIAL: _trial_created,
    JournalOperation.SET_TRIAL_STATE_VALUES: _trial_state,
    JournalOperation.SET_TRIAL_USER_ATTR: _trial_attribute,
    JournalOperation.SET_TRIAL_SYSTEM_ATTR: _trial_system_attribute,
}
