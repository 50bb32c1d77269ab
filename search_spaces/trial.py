"""Sources of parameter values: a sampler's trial (`optuna.Trial` matches the protocol), chance, or a list."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Trial(Protocol):
    """The part of a sampler's interface that a space needs; `optuna.Trial` implements all of it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        """Return one of `choices`."""

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int = 1) -> int:
        """Return an integer from `low` to `high`, both included, in steps of `step`."""

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        """Return a float from `low` to `high`, log-uniform if `log`."""


class RandomTrial:
    """Independent uniform draws, log-uniform if `log` is set; recorded in `params`."""

    def __init__(self, seed: int | random.Random) -> None:
        self.params: dict[str, Any] = {}
        self._random = seed if isinstance(seed, random.Random) else random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        """Draw one of `choices`."""
        self.params[name] = self._random.choice(choices)
        return self.params[name]

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int = 1) -> int:
        """Draw an integer from `low` to `high`, both included, in steps of `step`."""
        value = self._random.randrange(low, high + 1, step)
        self.params[name] = value
        return value

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        """Draw a float from `low` to `high`, log-uniform if `log`."""
        if log:
            value = math.exp(self._random.uniform(math.log(low), math.log(high)))
        else:
            value = self._random.uniform(low, high)
        self.params[name] = min(max(value, low), high)  # exp(log(high)) may exceed high by a rounding
        return float(self.params[name])


class ReplayTrial:
    """A trial that replays given values. A missing or out-of-range value becomes an edge of the range.

    Attributes:
        params: the values returned.
        domains: a few values of each parameter, including both edges (all values of a categorical one).
    """

    def __init__(self, values: Mapping[str, Any], *, high: bool = False) -> None:
        self.params: dict[str, Any] = {}
        self.domains: dict[str, tuple[Any, ...]] = {}
        self._values = values
        self.high = high
        self._edge = -1 if high else 0

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        """Return the given value if it is one of `choices`, else the first or last choice."""
        return self._take(name, tuple(choices), self._values.get(name) in choices)

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int = 1) -> int:
        """Return the given integer if it is in the range, else an edge."""
        steps = (high - low) // step
        domain = sorted({low + step * (steps * part // 4) for part in range(5)})
        value = self._values.get(name)
        inside = isinstance(value, int) and value in range(low, high + 1, step)
        return int(self._take(name, tuple(domain), inside))

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        """Return the given number if it is in the range, else an edge."""
        value = self._values.get(name)
        inside = isinstance(value, int | float) and low <= value <= high
        return float(self._take(name, (low, high), inside))

    def _take(self, name: str, domain: tuple[Any, ...], inside: bool) -> Any:
        self.domains[name] = domain
        self.params[name] = self._values[name] if inside else domain[self._edge]
        return self.params[name]
