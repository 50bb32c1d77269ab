"""Distributions of a search space: a field's values, how to sample them, and the parameters of a value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import gcd
from typing import Any

from search_spaces.trial import Trial
from surgery.architecture.layout import layout_from_ratio
from surgery.mixers import MIXER_WORDS

LETTERS = {word: letter for letter, word in MIXER_WORDS.items()}


class Distribution(ABC):
    """The values of one field. A field with a single value suggests no parameter."""

    @abstractmethod
    def sample(self, trial: Trial, name: str) -> Any:
        """Sample a value, using the trial's parameters `name` or `name.part`."""

    @abstractmethod
    def parameters(self, name: str, value: Any) -> dict[str, Any] | None:
        """Return the trial parameters that produce `value`; None if it is not one of the values."""

    @abstractmethod
    def values(self) -> Sequence[Any] | None:
        """Return all values in order; None if the distribution is continuous."""

    @abstractmethod
    def plain(self) -> Any:
        """Return the canonical YAML value."""

    def contains(self, value: Any) -> bool:
        """Return whether `value` is one of the values."""
        return self.parameters("", value) is not None

    def nearest(self, value: Any) -> Any:
        """Return `value` if the distribution contains it, else the first value."""
        values = self.values()
        return value if self.contains(value) or not values else values[0]

    @property
    def fixed(self) -> bool:
        """True if there is a single value."""
        values = self.values()
        return values is not None and len(values) == 1


@dataclass(frozen=True)
class Choice(Distribution):
    """One value of a list; a single one is a plain value in the file. Tuples are suggested as `q,k,v`."""

    options: tuple[Any, ...]

    def sample(self, trial: Trial, name: str) -> Any:
        """Sample one of the options, by its label."""
        if len(self.options) == 1:
            return self.options[0]
        return self._by_label[trial.suggest_categorical(name, tuple(self._by_label))]

    def parameters(self, name: str, value: Any) -> dict[str, Any] | None:
        """Return the label as parameter `name`; nothing if there is one option."""
        if value not in self.options:
            return None
        return {} if len(self.options) == 1 else {name: label(value)}

    def values(self) -> tuple[Any, ...]:
        """Return the options."""
        return self.options

    def plain(self) -> Any:
        """Return `{choice: [...]}`, or the value itself if it is the only one."""
        items = [list(item) if isinstance(item, tuple) else item for item in self.options]
        return items[0] if len(items) == 1 else {"choice": items}

    @cached_property
    def _by_label(self) -> dict[Any, Any]:
        return {label(option): option for option in self.options}


@dataclass(frozen=True)
class IntRange(Distribution):
    """Whole numbers from low to high, both included."""

    low: int
    high: int
    step: int = 1

    def sample(self, trial: Trial, name: str) -> int:
        """Sample a number, in steps from `low`."""
        if self.low == self.high:
            return self.low
        return trial.suggest_int(name, self.low, self.high, step=self.step)

    def parameters(self, name: str, value: Any) -> dict[str, Any] | None:
        """Return the number as parameter `name`; nothing if low equals high."""
        if value not in self.values():
            return None
        return {} if self.low == self.high else {name: value}

    def values(self) -> range:
        """Return the numbers in ascending order."""
        return range(self.low, self.high + 1, self.step)

    def plain(self) -> dict[str, Any]:
        """Return `{range: [low, high]}`, with the step if it is not 1."""
        step = {} if self.step == 1 else {"step": self.step}
        return {"range": [self.low, self.high], **step}


@dataclass(frozen=True)
class LogUniform(Distribution):
    """Log-uniform numbers from low to high."""

    low: float
    high: float

    def sample(self, trial: Trial, name: str) -> float:
        """Sample a number, uniform in its logarithm."""
        return trial.suggest_float(name, self.low, self.high, log=True)

    def parameters(self, name: str, value: Any) -> dict[str, Any] | None:
        """Return the number as parameter `name`; None if it is out of bounds."""
        return {name: value} if self.low <= value <= self.high else None

    def values(self) -> None:
        """Return None: the distribution is continuous."""

    def nearest(self, value: float) -> float:
        """Return `value` clamped to the bounds."""
        return min(max(value, self.low), self.high)

    def plain(self) -> dict[str, Any]:
        """Return `{log: [low, high]}`."""
        return {"log": [self.low, self.high]}


@dataclass(frozen=True)
class Subset(Distribution):
    """Any subset of the members: one true/false parameter per member, so that samplers see the structure."""

    members: tuple[str, ...]

    def sample(self, trial: Trial, name: str) -> tuple[str, ...]:
        """Sample a subset, in the order of the members."""
        return tuple(
            member for member in self.members if trial.suggest_categorical(f"{name}.{member}", (False, True))
        )

    def parameters(self, name: str, value: Any) -> dict[str, Any] | None:
        """Return a true/false parameter `name.member` for each member."""
        if not set(value) <= set(self.members):
            return None
        return {f"{name}.{member}": member in value for member in self.members}

    def values(self) -> tuple[tuple[str, ...], ...]:
        """Return all 2^n subsets, the empty one first."""
        picks = product((False, True), repeat=len(self.members))
        return tuple(
            tuple(name for name, taken in zip(self.members, pick, strict=True) if taken) for pick in picks
        )

    def plain(self) -> dict[str, Any]:
        """Return `{subset: [...]}`."""
        return {"subset": list(self.members)}


@dataclass(frozen=True)
class Ratio(Distribution):
    """Integer shares of mixers by letter, each within its bounds; placement applies to the first letter.

    A ratio is reduced by its common divisor. If every share is sampled as 0, the ratio is read as equal
    shares of all mixers that may have one, so no sample is wasted and the parameters keep fixed bounds.
    """

    bounds: tuple[tuple[str, int, int], ...]

    def sample(self, trial: Trial, name: str) -> tuple[tuple[str, int], ...]:
        """Sample a share per mixer, and return the (letter, share) pairs reduced."""
        shares = [
            low if low == high or self.fixed
            else trial.suggest_int(f"{name}.{MIXER_WORDS[letter]}", low, high)
            for letter, low, high in self.bounds
        ]  # fmt: skip
        return self.reduce(shares)

    def reduce(self, shares: Sequence[int]) -> tuple[tuple[str, int], ...]:
        """Return canonical shares: (letter, share) in the order of the bounds, without a common divisor."""
        if not any(shares):
            shares = [min(1, high) for _, _, high in self.bounds]
        divisor = gcd(*shares)
        return tuple(
            (letter, share // divisor) for (letter, _, _), share in zip(self.bounds, shares, strict=True)
        )

    def raw(self) -> Iterator[tuple[int, ...]]:
        """Return an iterator over all shares before reduction."""
        return product(*(range(low, high + 1) for _, low, high in self.bounds))

    @cached_property
    def _values(self) -> dict[tuple[tuple[str, int], ...], tuple[int, ...]]:
        shares_of: dict[tuple[tuple[str, int], ...], tuple[int, ...]] = {}
        for shares in self.raw():
            if any(shares):
                shares_of.setdefault(self.reduce(shares), shares)
        return shares_of

    def values(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """Return all different reduced ratios."""
        return tuple(self._values)

    @property
    def fixed(self) -> bool:
        """True if all shares reduce to one ratio."""
        return len(self._values) == 1

    def parameters(self, name: str, value: Any) -> dict[str, Any] | None:
        """Return the first shares that reduce to `value`, as `name.mixer`; fixed ones are left out."""
        shares = self._values.get(value)
        if shares is None:
            return None
        return {
            f"{name}.{MIXER_WORDS[letter]}": share
            for (letter, low, high), share in zip(self.bounds, shares, strict=True)
            if low != high and not self.fixed
        }

    @property
    def letters(self) -> tuple[str, ...]:
        """Mixers that may have a share."""
        return tuple(letter for letter, _, high in self.bounds if high > 0)

    def plain(self) -> dict[str, Any]:
        """Return a share per mixer, or `[low, high]` where it varies."""
        return {MIXER_WORDS[letter]: low if low == high else [low, high] for letter, low, high in self.bounds}


def placement_matters(shares: Sequence[tuple[str, int]]) -> bool:
    """Return whether placement has an effect: the first mixer and another one both have a share."""
    return shares[0][1] > 0 and sum(share > 0 for _, share in shares) > 1


@lru_cache(maxsize=64)
def layouts_of(
    ratio: Ratio, placements: tuple[str, ...], depth: int
) -> dict[str, tuple[tuple[tuple[str, int], ...], str | None]]:
    """Return every layout of this depth, with the first (shares, placement) that produces it."""
    layouts: dict[str, tuple[tuple[tuple[str, int], ...], str | None]] = {}
    for shares in ratio.values():
        matters = placement_matters(shares)
        for placement in placements if matters else (None,):
            layout = layout_from_ratio(dict(shares), placement or "interleave", depth)
            layouts.setdefault(layout, (shares, placement))
    return layouts


def label(value: Any) -> Any:
    """Return the plain value that stands for `value` in a sampler's categorical choices."""
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else value
