"""Designs to beat: what one would try without a search, at the budgets that the search is asked for.

Uniform interleaves, the lowest scores of a single replacement, and leaving whole layers out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from search_spaces.replacements import Part, Replacements
from surgery.architecture.costs import cost

SHARES = (0.75, 0.5, 0.25)  # of the model's own cost
Kl = Mapping[tuple[str, str], float]  # score in nats/token by (part's name, label)


@dataclass(frozen=True)
class Comparison:
    """A design to beat: its name, and the label of every part that it replaces."""

    name: str
    choice: dict[str, str]


def comparisons(replacements: Replacements, kl: Kl, metric: str) -> Iterator[Comparison]:
    """Yield the designs to beat under shares of the model's cost in `metric`, each with the fewest changes.

    Args:
        replacements: the options of every part.
        kl: their scores.
        metric: an exact cost, such as `cache_bytes@8192`.
    """
    differences = {
        (part.name, label): value
        for part, row in zip(replacements.parts, replacements.differences(metric), strict=True)
        for label, value in zip(part.labels, row, strict=True)
    }
    base = cost(replacements.model, metric)
    labels = dict.fromkeys((part.part, label) for part in replacements.parts for label in part.labels[1:])
    seen: set[tuple[tuple[str, str], ...]] = set()
    for share in SHARES:
        for kind, orders in _orders(replacements, labels, kl):
            choice = _fewest(orders, differences, (1 - share) * base)
            if choice is None or (key := tuple(sorted(choice.items()))) in seen:
                continue
            seen.add(key)
            yield Comparison(f"{kind} {share:.0%}", choice)


# Choices of one kind by their number of replaced layers: 1, 2, ...
Orders = Sequence[dict[str, str]]


def _orders(
    replacements: Replacements, labels: Mapping[tuple[str, str], None], kl: Kl
) -> Iterator[tuple[str, Orders]]:
    for kind, label in labels:
        parts = [part for part in replacements.parts if part.part == kind and label in part.labels]
        if label != "none":
            yield f"uniform {label}", [_at(parts, label, _spread(len(parts), n)) for n in _counts(parts)]
        ranked = sorted(range(len(parts)), key=lambda index: kl[parts[index].name, label])
        yield f"lowest {label}", [_at(parts, label, ranked[:n]) for n in _counts(parts)]
    whole = _droppable(replacements)
    if whole:
        scores = {layer: sum(kl[part.name, "none"] for part in parts) for layer, parts in whole.items()}
        ranked = sorted(whole, key=lambda layer: scores[layer])
        yield (
            "dropped layers",
            [{part.name: "none" for layer in ranked[:n] for part in whole[layer]} for n in _counts(ranked)],
        )


def _counts(items: Sequence[object]) -> range:
    return range(1, len(items) + 1)


def _at(parts: Sequence[Part], label: str, indices: Sequence[int]) -> dict[str, str]:
    return {parts[index].name: label for index in sorted(indices)}


def _spread(count: int, chosen: int) -> list[int]:
    """Return `chosen` of `count` positions, evenly spaced, the last in each period."""
    return [(index + 1) * count // chosen - 1 for index in range(chosen)]


def _droppable(replacements: Replacements) -> dict[int, list[Part]]:
    """Return the layers both of whose parts can be left out."""
    layers: dict[int, list[Part]] = {}
    for part in replacements.parts:
        if "none" in part.labels:
            layers.setdefault(part.layer, []).append(part)
    return {layer: parts for layer, parts in layers.items() if len(parts) == 2}


def _fewest(
    orders: Orders, differences: Mapping[tuple[str, str], int], wanted: float
) -> dict[str, str] | None:
    """Return the choice with the fewest layers that takes `wanted` off the cost; None if none does."""
    for choice in orders:
        if -sum(differences[item] for item in choice.items()) >= wanted:
            return choice
    return None
