"""Reading one field of a `search:` section into its distribution; errors are collected as problems."""

from __future__ import annotations

import math
from typing import Any

from search_spaces.distributions import LETTERS, Choice, Distribution, IntRange, LogUniform, Ratio, Subset
from search_spaces.fields import EXAMPLES, Field
from surgery.config.backbone import PROJECTIONS
from surgery.config.options import Cursor
from surgery.config.problems import nearest
from surgery.mixers import MIXER_WORDS

MAX_RATIOS = 20_000
MAX_VALUES = 10_000  # values of a range


def read_distribution(field: Field, data: object, cursor: Cursor) -> Distribution | None:
    """Return the distribution (a plain value becomes a single choice), or None after adding problems."""
    if field.forms == ("ratio",):
        return _read_ratio(data, cursor)
    if not isinstance(data, dict):
        return _read_fixed(field, data, cursor)
    forms = [key for key in data if key != "step"]
    if len(forms) != 1:
        cursor.problem(data, "must be exactly one distribution", f"write {field.usage}")
        return None
    form, value = str(forms[0]), data[forms[0]]
    if form not in EXAMPLES or form == "ratio":
        hint = nearest(form, field.forms) or f"write {field.usage}"
        cursor.at(form).problem(None, "is not a distribution", hint)
        return None
    if form not in field.forms:
        cursor.at(form).problem(value, f"{form} does not suit {field.name}", f"write {field.usage}")
        return None
    if "step" in data and form != "range":
        cursor.at("step").problem(data["step"], "only a range has a step")
        return None
    here = cursor.at(form)
    if form == "choice":
        return _read_choice(field, value, here)
    if form == "subset":
        return _read_subset(value, here)
    if form == "log":
        return _read_log(field, value, here)
    return _read_range(field, value, data.get("step", 1), here)


def _read_fixed(field: Field, value: object, cursor: Cursor) -> Distribution | None:
    lists = "subset" in field.forms or field.name.endswith((".layers", ".windows", ".span"))
    if isinstance(value, list) and not lists:
        cursor.problem(value, "must be one value or a distribution", f"write {field.usage}")
        return None
    item = _read_value(field, value, cursor)
    return None if item is None else Choice((item,))


def _read_choice(field: Field, value: object, cursor: Cursor) -> Choice | None:
    if not isinstance(value, list) or not value:
        cursor.problem(value, "must be a list of at least one value", f"write {field.usage}")
        return None
    items = [_read_value(field, item, cursor.at(index)) for index, item in enumerate(value)]
    good = True
    for index, item in enumerate(items):
        if item is None:
            good = False
        elif item in items[:index]:
            cursor.at(index).problem(value[index], "is listed twice", "remove one")
            good = False
    return Choice(tuple(items)) if good else None


def _read_value(field: Field, value: object, cursor: Cursor) -> Any:
    try:
        return field.read(value)
    except ValueError as error:
        cursor.problem(value, str(error), field.help)
        return None


def _read_subset(value: object, cursor: Cursor) -> Subset | None:
    members = list(PROJECTIONS) if value == "all" else value
    if not isinstance(members, list) or not members:
        cursor.problem(value, "must be a list of at least one projection", f"out of {', '.join(PROJECTIONS)}")
        return None
    good = True
    for index, name in enumerate(members):
        if name not in PROJECTIONS:
            rule = f"must be a projection: {', '.join(PROJECTIONS)}"
            cursor.at(index).problem(name, rule, nearest(str(name), PROJECTIONS))
            good = False
        elif name in members[:index]:
            cursor.at(index).problem(name, "is listed twice", "remove one")
            good = False
    return Subset(tuple(name for name in PROJECTIONS if name in members)) if good else None


def _read_pair(field: Field, value: object, cursor: Cursor) -> tuple[Any, Any] | None:
    if not isinstance(value, list) or len(value) != 2:
        cursor.problem(value, "must be two numbers [low, high]")
        return None
    low, high = (_read_value(field, item, cursor.at(index)) for index, item in enumerate(value))
    if low is None or high is None:
        return None
    if low > high:
        cursor.problem(value, "the lower bound is above the upper bound", f"write [{high:g}, {low:g}]")
        return None
    return low, high


def _read_range(field: Field, value: object, step: object, cursor: Cursor) -> IntRange | None:
    pair = _read_pair(field, value, cursor)
    if type(step) is not int or step < 1:
        cursor.problem(step, "step must be a whole number of at least 1")
        return None
    if pair is None:
        return None
    low, high = pair
    if (high - low) % step:
        reached = high - (high - low) % step
        rule = f"step {step} from {low} does not reach {high}"
        cursor.problem(value, rule, f"write [{low}, {reached}] or [{low}, {reached + step}]")
        return None
    if (count := (high - low) // step + 1) > MAX_VALUES:
        cursor.problem(
            value, f"has {count:,} values, at most {MAX_VALUES:,} are allowed", "give a larger step"
        )
        return None
    return IntRange(low, high, step)


def _read_log(field: Field, value: object, cursor: Cursor) -> Distribution | None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, int | float) and not isinstance(item, bool) and item <= 0:
                cursor.at(index).problem(item, "a log range must stay above 0", "start at 1e-6, for example")
                return None
    pair = _read_pair(field, value, cursor)
    if pair is None:
        return None
    low, high = pair
    if not math.isfinite(math.log(high / low)):
        cursor.problem(value, "is too wide a range")
        return None
    return Choice((low,)) if low == high else LogUniform(low, high)


def _read_ratio(data: object, cursor: Cursor) -> Ratio | None:
    words = MIXER_WORDS.values()
    if not isinstance(data, dict) or not data:
        cursor.problem(
            data, "must map mixers to shares", f"such as {{full: [0, 4]}}; mixers: {', '.join(words)}"
        )
        return None
    bounds: list[tuple[str, int, int]] = []
    good = True
    for word, value in data.items():
        here = cursor.at(str(word))
        letter = LETTERS.get(str(word))
        if letter is None:
            hint = MIXER_WORDS.get(str(word))
            hint = f'did you mean "{hint}"?' if hint else nearest(str(word), LETTERS)
            here.problem(None, "is not a mixer", hint or f"mixers: {', '.join(words)}")
        elif (pair := _read_shares(value, here)) is not None:
            bounds.append((letter, *pair))
            continue
        good = False
    if not good:
        return None
    if not any(high for _, _, high in bounds):
        cursor.problem(data, "no mixer may have a share", "give one of them an upper bound above 0")
        return None
    count = math.prod(high - low + 1 for _, low, high in bounds)
    if count > MAX_RATIOS:
        cursor.problem(data, f"has {count:,} ratios, at most {MAX_RATIOS:,} are allowed", "narrow the shares")
        return None
    bounds.sort(key=lambda bound: bound[0] != "F")  # placement applies to the first, full attention
    return Ratio(tuple(bounds))


def _read_shares(value: object, cursor: Cursor) -> tuple[int, int] | None:
    pair = value if isinstance(value, list) else [value, value]
    shares = [item for item in pair if isinstance(item, int) and type(item) is int and item >= 0]
    if len(shares) != 2 or len(pair) != 2:
        cursor.problem(value, "must be a share or [low, high], whole numbers from 0")
        return None
    low, high = shares
    if low > high:
        cursor.problem(value, "the lower bound is above the upper bound", f"write [{high}, {low}]")
        return None
    return low, high
