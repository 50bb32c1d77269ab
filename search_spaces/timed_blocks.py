"""The distinct blocks of a space's architectures, which are timed before its first trial."""

from __future__ import annotations

from search_spaces.space import SearchSpace
from surgery.architecture import Architecture
from surgery.architecture.timed_parts import TimedPart, timed_parts

SAMPLES = 5000  # random architectures that are looked at
KNOWN_IN_A_ROW = 300  # after so many without a new block there are hardly any left
MOST = 2000  # blocks; those of larger spaces are timed when an architecture has them


def space_parts(space: SearchSpace) -> list[TimedPart]:
    """Return the distinct parts of a space: all over a pretrained model, else those of random architectures.

    Random architectures may miss rare parts, which are timed when an architecture has them.
    """
    parts: dict[str, TimedPart] = {}

    def add(architecture: Architecture) -> bool:
        before = len(parts)
        for part, _ in timed_parts(architecture):
            parts.setdefault(part.name, part)
        return len(parts) > before

    if space.replacements is not None:
        replacements = space.replacements
        add(replacements.model)
        for kind, label in {(part.part, label) for part in replacements.parts for label in part.labels}:
            add(replacements.uniform(kind, label))
        return _ordered(parts)
    for baseline in space.baselines.values():
        add(baseline)
    known = 0
    for seed in range(SAMPLES):
        known = 0 if add(space.sample_random(seed)) else known + 1
        if known == KNOWN_IN_A_ROW or len(parts) >= MOST:
            break
    return _ordered(parts)


def _ordered(parts: dict[str, TimedPart]) -> list[TimedPart]:
    return [parts[name] for name in sorted(parts)]
