"""Rules of this version that decide what a trial is and measures, in addition to its space and settings.

A study records the rules that it was started under. Trials under different rules are not comparable, so a
study with another rule is refused wherever it would train; it can still be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search_spaces import SearchSpace
from surgery.config.problems import Problem

HINT = "finish this study with the version of nas that started it, or start a new one under another --name"


@dataclass(frozen=True)
class Rule:
    """A rule: its text `now` and `before` rules were recorded, and the spaces that it applies to."""

    name: str
    now: str
    before: str
    applies: Callable[[SearchSpace], bool]


def _is_tied(space: SearchSpace) -> bool:
    return space.backbone.tie_embeddings


def _has_bookends(space: SearchSpace) -> bool:
    return "bookend" in space.variation.placements()


RULES = (
    Rule(
        "start of tied embeddings",
        "gains of the last norm 1 and -1 by turns",
        "gains of the last norm all 1",
        _is_tied,
    ),
    Rule("bookend", "as many layers at each end", "an odd layer more at the front", _has_bookends),
)


def rules_of(space: SearchSpace) -> dict[str, str]:
    """Return the rules of this version that apply to a space, by name."""
    return {rule.name: rule.now for rule in RULES if rule.applies(space)}


def changed_rules(space: SearchSpace, recorded: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each rule of this space that differs from what a study has `recorded`."""
    changed = [
        (rule.name, recorded.get(rule.name, rule.before), rule.now) for rule in RULES if rule.applies(space)
    ]
    lines = [(name, f"{old} -> {new}") for name, old, new in changed if old != new]
    return [Problem(name, None, line, HINT if not index else "") for index, (name, line) in enumerate(lines)]
