"""Enumeration of a finite space, by walking through every value that a sampler could suggest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from search_spaces.space import SearchSpace
from surgery.architecture import Architecture
from surgery.config.problems import Problem, UserError


def every_architecture(space: SearchSpace) -> Iterator[tuple[dict[str, Any], Architecture]]:
    """Yield (trial parameters, architecture) once per architecture, ignoring constraints.

    Only parameters that the space samples are varied, so fields without an effect add no combinations.

    Raises:
        UserError: a field is continuous.
    """
    if continuous := space.size().continuous:
        problems = [Problem(name, None, "is continuous", "use {choice: [...]}") for name in continuous]
        raise UserError(f"{space.name} is not finite", problems)
    seen: set[str] = set()
    trial: _Walk | None = _Walk([])
    while trial is not None:
        architecture = space.sample(trial)
        if architecture.hash not in seen:
            seen.add(architecture.hash)
            yield trial.params, architecture
        trial = trial.next()


class _Walk:
    """A trial that returns the values of a path of indices, then the first value of each further domain."""

    def __init__(self, path: Sequence[int]) -> None:
        self.params: dict[str, Any] = {}
        self._path = list(path)
        self._sizes: list[int] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        return self._take(name, choices)

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int = 1) -> int:
        return int(self._take(name, range(low, high + 1, step)))

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        raise AssertionError("continuous fields are rejected before")

    def next(self) -> _Walk | None:
        """Return the next walk in lexicographic order; None after the last one."""
        for index in reversed(range(len(self._sizes))):
            if self._path[index] + 1 < self._sizes[index]:
                return _Walk([*self._path[:index], self._path[index] + 1])
        return None

    def _take(self, name: str, domain: Sequence[Any]) -> Any:
        index = len(self._sizes)
        if index == len(self._path):
            self._path.append(0)
        self._sizes.append(len(domain))
        self.params[name] = domain[self._path[index]]
        return self.params[name]
