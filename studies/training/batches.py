"""The order of the text in training, and whether text, settings and model fit each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from studies.data import TokenData
from studies.training.settings import TrainSettings
from surgery.config.problems import Problems


def batch_indices(num_sequences: int, settings: TrainSettings) -> Iterator[np.ndarray]:
    """Yield the sequence indices of each step, reshuffled every epoch; only `order_seed` sets the order."""
    size = settings.batch_tokens // settings.seq_len
    queue = np.empty(0, dtype=np.int64)
    epoch = 0
    while True:
        while len(queue) < size:
            shuffled = np.random.default_rng((settings.order_seed, epoch)).permutation(num_sequences)
            queue = np.concatenate((queue, shuffled))
            epoch += 1
        yield queue[:size]
        queue = queue[size:]


def check_data(data: TokenData, settings: TrainSettings, vocab_size: int) -> None:
    """Check that data, settings and vocabulary fit each other.

    Raises:
        UserError: the tokens don't fit the model or the budget.
    """
    problems = Problems()
    if data.vocab_size > vocab_size:
        rule = f"must be at least the tokenizer's {data.vocab_size}"
        problems.add("backbone.vocab_size", vocab_size, rule, "or prepare the data with a smaller one")
    if settings.batch_tokens < settings.seq_len or settings.batch_tokens % settings.seq_len:
        problems.add(
            "batch_tokens", settings.batch_tokens, f"must be a multiple of seq_len {settings.seq_len}"
        )
    for split in ("train", "val"):
        if data.num_sequences(split, settings.seq_len) < 1:
            rule = f"must hold a sequence of {settings.seq_len} + 1 tokens"
            problems.add(
                f"{split} tokens", len(data.tokens(split)), rule, "use more text or a smaller seq_len"
            )
    problems.raise_if_any("model and data don't fit")
