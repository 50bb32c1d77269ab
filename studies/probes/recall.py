"""The recall probe: multi-query associative recall (MQAR; Arora et al. 2023, arXiv 2312.04927).

A sequence shows key-value pairs, k1 v1 k2 v2 ..., and later repeats every key once, in random order among
filler tokens. After a repeated key the model must predict the value that followed it. Keys and values are
drawn anew for every sequence, so nothing can be memorized; the answers are not part of the input, so
eliminating those already given does not help either. Perplexity hides this ability (most tokens of a text
don't need it), and mixers that lack it do well until they must look something up.
"""

from __future__ import annotations

import numpy as np

from search_spaces.probes.recall import FILLER, Recall
from studies.probes.task import UNSCORED, Tokens


def sequences(settings: Recall, count: int, generator: np.random.Generator) -> tuple[Tokens, Tokens]:
    """Return (inputs, targets), both (count, seq_len); a target is a repeated key's value or UNSCORED."""
    pairs, half = settings.pairs, settings.alphabet // 2
    keys = FILLER + 1 + _some(count, half, pairs, generator)
    values = FILLER + 1 + half + generator.integers(0, half, (count, pairs))
    inputs = np.full((count, settings.seq_len), FILLER, dtype=np.int64)
    targets = np.full_like(inputs, UNSCORED)
    shown = 2 * pairs
    inputs[:, 0:shown:2], inputs[:, 1:shown:2] = keys, values
    start = shown + settings.distance
    positions = start + _some(count, settings.seq_len - start, pairs, generator)
    np.put_along_axis(inputs, positions, keys, axis=1)
    np.put_along_axis(targets, positions, values, axis=1)
    return inputs, targets


def _some(count: int, choices: int, size: int, generator: np.random.Generator) -> Tokens:
    """Return (count, size) integers: in each row distinct numbers below `choices`, in random order."""
    return generator.random((count, choices)).argsort(axis=1)[:, :size]
