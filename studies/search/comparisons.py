"""Designs to beat: what one would try without a search, at the budgets that the search is asked for.

Uniform interleaves, the lowest scores of a single replacement, leaving whole layers out, and the layouts of
published designs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from search_spaces.replacements import Part, Replacements
from studies.search.published import published
from surgery.architecture.block_times import BlockTimes
from surgery.architecture.costs import cost_in_steps

SHARES = (0.75, 0.5, 0.25)  # of the model's own cost
Kl = Mapping[tuple[str, str], float]  # score in nats/token by (part's name, label)


@dataclass(frozen=True)
class Comparison:
    """A design to beat: its name, and the label of every part that it replaces."""

    name: str
    choice: dict[str, str]


def comparisons(
    replacements: Replacements,
    kl: Kl,
    metrics: Sequence[str],
    predict: Callable[[dict[str, str]], float],
    times: BlockTimes | None = None,
) -> Iterator[Comparison]:
    """Yield the designs to beat, each once.

    Under shares of the model's cost in each metric these are, of each mixer and operator, the best predicted
    uniform one and that with the lowest scores, each with the fewest changes; then come the published
    layouts, at the cost that they have.

    Args:
        replacements: the options of every part.
        kl: their scores.
        metrics: costs, such as `cache_bytes@8192`. Names of designs under limits of any but the first
            say which.
        predict: KL of a design in nats/token by the labels of its replaced parts; designs for which it is
            not finite are left out.
        times: of the blocks, for latencies.
    """
    seen: set[tuple[tuple[str, str], ...]] = set()
    words = dict(zip(metrics, _words(metrics), strict=True))
    for metric in metrics:
        suffix = f" {words[metric]}" if metric != metrics[0] else ""
        for item in _under_shares(replacements, kl, metric, predict, times):
            if _is_new(item.choice, seen):
                yield Comparison(item.name + suffix, item.choice)
    for name, choice in published(replacements, kl):
        if isfinite(predict(choice)) and _is_new(choice, seen):
            yield Comparison(name, choice)


def _is_new(choice: dict[str, str], seen: set[tuple[tuple[str, str], ...]]) -> bool:
    """Return whether a choice is not in `seen`, and add it."""
    key = tuple(sorted(choice.items()))
    known = key in seen
    seen.add(key)
    return not known


def _words(metrics: Sequence[str]) -> list[str]:
    """Return a word for each metric, such as `decode` for `decode_flops@8192`, or its name if shared."""
    words = [metric.partition("@")[0].partition("_")[0] for metric in metrics]
    times = Counter(words)
    return [word if times[word] == 1 else metric for word, metric in zip(words, metrics, strict=True)]


def _under_shares(
    replacements: Replacements,
    kl: Kl,
    metric: str,
    predict: Callable[[dict[str, str]], float],
    times: BlockTimes | None,
) -> Iterator[Comparison]:
    """Yield the best predicted design of each family under each share of the model's cost."""
    differences = {
        (part.name, label): value
        for part, row in zip(replacements.parts, replacements.differences(metric, times), strict=True)
        for label, value in zip(part.labels, row, strict=True)
    }
    base = cost_in_steps(replacements.model, metric, times)
    labels = dict.fromkeys((part.part, label) for part in replacements.parts for label in part.labels[1:])
    for share in SHARES:
        best: dict[tuple[str, str], tuple[float, Comparison]] = {}
        for family, name, orders in _orders(replacements, labels, kl):
            choice = _fewest(orders, differences, (1 - share) * base)
            if choice is not None and isfinite(predicted := predict(choice)):
                item = Comparison(f"{name} {share:.0%}", choice)
                if family not in best or predicted < best[family][0]:
                    best[family] = predicted, item
        yield from (item for _, item in best.values())


# Choices of one kind by their number of replaced layers: 1, 2, ...
Orders = Sequence[dict[str, str]]


def _orders(
    replacements: Replacements, labels: Mapping[tuple[str, str], None], kl: Kl
) -> Iterator[tuple[tuple[str, str], str, Orders]]:
    """Yield (family, name, choices) of every kind; a family is an order of one mixer or operator."""
    for kind, label in labels:
        parts = [part for part in replacements.parts if part.part == kind and label in part.labels]
        if label != "none":
            orders = [_at(parts, label, _spread(len(parts), n)) for n in _counts(parts)]
            yield ("uniform", label.split()[0]), f"uniform {label}", orders
        ranked = sorted(range(len(parts)), key=lambda index: kl[parts[index].name, label])
        yield (
            ("lowest", label.split()[0]),
            f"lowest {label}",
            [_at(parts, label, ranked[:n]) for n in _counts(parts)],
        )
    whole = _droppable(replacements)
    if whole:
        scores = {layer: sum(kl[part.name, "none"] for part in parts) for layer, parts in whole.items()}
        ranked = sorted(whole, key=lambda layer: scores[layer])
        yield (
            ("dropped", ""),
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
