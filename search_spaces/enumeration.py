"""Every architecture of a finite space, by walking through every answer that a sampler could give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from search_spaces.space import SearchSpace
from surgery.architecture import Architecture
from surgery.config.problems import Problem, UserError


def every_architecture(space: SearchSpace) -> Iterator[tuple[dict[str, Any], Architecture]]:
    """(trial parameters, architecture), the first parameters that give each; constraints aside.

    Only what the space asks for is varied, so that a field without an effect multiplies nothing.

    Raises:
        UserError: a field has a continuum of values.
    """
    if continuous := space.size().continuous:
        problems = [
            Problem(name, None, "has a continuum of values", "use {choice: [...]}") for name in continuous
        ]
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
    """A trial that gives the answers of a path, and the first of each domain behind its end."""

    def __init__(self, path: Sequence[int]) -> None:
        self.params: dict[str, Any] = {}
        self._path = list(path)
        self._sizes: list[int] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        return self._take(name, choices)

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int = 1) -> int:
        return int(self._take(name, range(low, high + 1, step)))

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        raise AssertionError("a continuum was refused before")

    def next(self) -> _Walk | None:
        """The walk behind this one: its last answer that has another, changed; None after the last walk."""
        for place in reversed(range(len(self._sizes))):
            if self._path[place] + 1 < self._sizes[place]:
                return _Walk([*self._path[:place], self._path[place] + 1])
        return None

    def _take(self, name: str, domain: Sequence[Any]) -> Any:
        place = len(self._sizes)
        if place == len(self._path):
            self._path.append(0)
        self._sizes.append(len(domain))
        self.params[name] = domain[self._path[place]]
        return self.params[name]
