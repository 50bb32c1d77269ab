"""The state probe: the word problem of a group (Merrill et al. 2024, arXiv 2404.08819).

A word is a sequence of group elements, each drawn evenly. At every token the model must predict the product
of all tokens so far, so it has to carry the product along. Every token counts: as long as a single one is
not known, the product is any element as likely as any other. Whoever keeps only the last k tokens is right on
the first k of n places and guesses on the others, k/n + (1 - k/n)/|group| in all, and so falls to chance as
words get longer. Parity is the group of two elements: the sum of bits modulo 2.

Before each word stands a token of its own. Without it attention could not tell 1 1 from 1 1 1, since it only
averages, and would be wrong about them for that alone.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, permutations

import numpy as np

from search_spaces.probes.state import GROUPS, State
from studies.probes.task import UNSCORED, Tokens


def sequences(settings: State, count: int, generator: np.random.Generator) -> tuple[Tokens, Tokens]:
    """(inputs, targets), both (count, 1 + length); a target is the product of its row's word up to there."""
    table = product_table(settings.group)
    words = generator.integers(0, len(table), (count, settings.length))
    products = np.empty_like(words)
    products[:, 0] = words[:, 0]
    for place in range(1, settings.length):
        products[:, place] = table[words[:, place], products[:, place - 1]]
    column = ((0, 0), (1, 0))
    inputs = np.pad(words, column, constant_values=settings.start)
    return inputs, np.pad(products, column, constant_values=UNSCORED)


@cache
def elements(group: str) -> tuple[tuple[int, ...], ...]:
    """The permutations, by token: element e sends i to e[i]. In dictionary order, the identity first."""
    chosen = GROUPS[group]
    every = permutations(range(chosen.letters))
    return tuple(item for item in every if not (chosen.even_only and _inversions(item) % 2))


@cache
def product_table(group: str) -> Tokens:
    """(order, order): at [a, b] the element that does b first and then a."""
    found = elements(group)
    token = {item: index for index, item in enumerate(found)}
    rows = [[token[tuple(a[i] for i in b)] for b in found] for a in found]
    return np.array(rows, dtype=np.int64)


def _inversions(item: tuple[int, ...]) -> int:
    return sum(left > right for left, right in combinations(item, 2))
