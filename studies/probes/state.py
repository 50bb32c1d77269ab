"""The state probe: the word problem of a group (Merrill et al. 2024, arXiv 2404.08819).

A word is a sequence of group elements drawn uniformly. At every token the model must predict the product of
all tokens so far, so it has to track the product. Every token matters: if a single one is unknown, the
product is uniformly distributed. A model that sees only the last k tokens is right on the first k of n
positions and guesses on the others, k/n + (1 - k/n)/|group| in total, and so falls to chance as words get
longer. Parity is the group of two elements: the sum of bits modulo 2.

A start token precedes each word. Without it attention could not distinguish 1 1 from 1 1 1, since it only
averages, and would fail on them for that reason alone.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, permutations

import numpy as np

from search_spaces.probes.state import GROUPS, State
from studies.probes.task import UNSCORED, Tokens


def sequences(settings: State, count: int, generator: np.random.Generator) -> tuple[Tokens, Tokens]:
    """Return (inputs, targets), both (count, 1 + length); a target is the product of the word so far."""
    table = product_table(settings.group)
    words = generator.integers(0, len(table), (count, settings.length))
    products = np.empty_like(words)
    products[:, 0] = words[:, 0]
    for index in range(1, settings.length):
        products[:, index] = table[words[:, index], products[:, index - 1]]
    column = ((0, 0), (1, 0))
    inputs = np.pad(words, column, constant_values=settings.start)
    return inputs, np.pad(products, column, constant_values=UNSCORED)


@cache
def elements(group: str) -> tuple[tuple[int, ...], ...]:
    """Return the permutations by token, in lexicographic order; element e sends i to e[i]."""
    chosen = GROUPS[group]
    every = permutations(range(chosen.letters))
    return tuple(item for item in every if not (chosen.even_only and _inversions(item) % 2))


@cache
def product_table(group: str) -> Tokens:
    """Return the (order, order) multiplication table: at [a, b] the element that applies b, then a."""
    permuted = elements(group)
    token = {item: index for index, item in enumerate(permuted)}
    rows = [[token[tuple(a[i] for i in b)] for b in permuted] for a in permuted]
    return np.array(rows, dtype=np.int64)


def _inversions(item: tuple[int, ...]) -> int:
    return sum(left > right for left, right in combinations(item, 2))
