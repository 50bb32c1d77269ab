"""Random selections that brute force can solve."""

from __future__ import annotations

import itertools

import numpy as np

from studies.selection.problem import Choice, Limits, Selection


def random_selection(seed: int, parts: int = 5, unit: int = 1, ties: bool = False) -> Selection:
    """Return a selection of 2 to 4 options per part, with costs that are multiples of `unit`."""
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 5, size=parts)
    scores, params, cache = [], [], []
    for size in sizes:
        score = random.integers(0, 4, size) / 8 if ties else random.exponential(0.1, size)
        score[0] = 0
        scores.append(score)
        for costs, high in ((params, 20), (cache, 200)):
            cost = -random.integers(-2, high, size) * unit
            cost[0] = 0
            costs.append(cost)
    base = {"params": 1000 * unit, "cache": 10**4 * unit}
    return Selection(scores, {"params": params, "cache": cache}, base)


def limits_of(selection: Selection, seed: int) -> Limits:
    """Return limits that some choices keep: between the costs of two random ones, or of one exactly."""
    random = np.random.default_rng(seed)
    first, second = ([int(random.integers(size)) for size in selection.sizes] for _ in range(2))
    one, other = selection.total(first), selection.total(second)
    both = {metric: sorted((one[metric], other[metric])) for metric in one}
    kinds = {
        0: {"params": (None, one["params"])},
        1: {"params": (None, one["params"] + 0.5), "cache": (None, one["cache"])},
        2: {"params": tuple(both["params"])},
        3: {"params": (both["params"][0], None), "cache": tuple(both["cache"])},
    }
    return kinds[seed % len(kinds)]


def every_choice(selection: Selection, limits: Limits) -> list[Choice]:
    """Return all choices within the limits, the best first."""
    choices = itertools.product(*(range(size) for size in selection.sizes))
    kept = [choice for choice in choices if selection.keeps(choice, limits)]
    return sorted(kept, key=selection.score)
