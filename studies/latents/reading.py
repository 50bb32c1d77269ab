"""Statistics of a model's latents over a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from studies.evaluation.model_folder import Checkpoint, check_tokens
from studies.evaluation.perplexity import trained_length
from studies.evaluation.text import Text, tokenize
from surgery.config.problems import Problem, UserError
from surgery.latents.projections import latent_projections
from surgery.latents.recording import recording
from surgery.latents.statistics import DEAD_VARIANCE, Statistics

ROWS = 8  # windows per forward pass
TOKENS = 65_536  # of held-out text, by default

Progress = Callable[[str, int, int], None]  # called with (stage, done, total)


@dataclass(frozen=True)
class Reading:
    """Statistics of the latents of every HDPL projection, from bottom to top.

    Attributes:
        text: what was read.
        tokens: tokens of the text that were read.
        seq_len: tokens per window.
        statistics: one per projection.
        threshold: units whose variance is at most this are dead.
    """

    text: str
    tokens: int
    seq_len: int
    statistics: tuple[Statistics, ...]
    threshold: float = DEAD_VARIANCE

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "seq_len": self.seq_len,
            "dead_variance": self.threshold,
            "projections": [
                {
                    "layer": item.latent.layer,
                    "projection": item.latent.projection,
                    "rank": item.rank,
                    "dead": item.dead(self.threshold),
                    "effective_rank": item.effective_rank,
                    "kl": float(item.kl.sum()),
                    "units": [
                        {"mean": mean, "sd": sd, "kl": kl}
                        for mean, sd, kl in zip(
                            item.mean.tolist(), item.sd.tolist(), item.kl.tolist(), strict=True
                        )
                    ],
                }
                for item in self.statistics
            ],
        }


@torch.no_grad()
def read_latents(
    checkpoint: Checkpoint,
    text: Text,
    *,
    seq_len: int | None = None,
    max_tokens: int | None = None,
    threshold: float = DEAD_VARIANCE,
    progress: Progress = lambda stage, done, total: None,
) -> Reading:
    """Read the latents mu of all HDPL projections in windows that do not overlap.

    Args:
        checkpoint: the model.
        text: to read, by the model's own tokenizer.
        seq_len: tokens per window; None: as `nas train` recorded, else 512.
        max_tokens: most tokens; None: TOKENS of held-out text, all of a plain file.
        threshold: of the variance of dead units.
        progress: called after every batch.

    Raises:
        UserError: no HDPL projections, windows that exceed the context, or too little text.
    """
    latent_projections(checkpoint.model)
    if seq_len is None:
        seq_len = min(trained_length(checkpoint.folder), checkpoint.longest)
    if seq_len > checkpoint.longest:
        rule = f"exceeds the context of {checkpoint.longest:,} tokens"
        raise UserError(f"{checkpoint.name}: can't be read", [Problem("length", seq_len, rule, "give fewer")])
    if max_tokens is None and not text.whole:
        max_tokens = TOKENS
    tokens = tokenize(checkpoint, text, None if max_tokens is None else max_tokens + seq_len)
    check_tokens(checkpoint, [*np.unique(tokens.ids), *([] if tokens.bos is None else [tokens.bos])])
    total, done = tokens.targets(seq_len, max_tokens), 0
    with recording(checkpoint.model) as moments:
        for batch in tokens.windows(seq_len, total, ROWS):
            rows = torch.from_numpy(batch)[:, :-1].to(checkpoint.device)
            checkpoint.model.model(rows)  # without the head, whose logits nothing here needs
            done += rows.numel()
            progress("tokens", done, total)
    statistics = tuple(Statistics.of(name, own) for name, own in moments.items())
    return Reading(text.name, total, seq_len, statistics, threshold)


def distances(first: Sequence[Statistics], second: Sequence[Statistics]) -> list[float]:
    """Return how far the means of two texts are apart, per projection.

    The distance is the root mean square over the units of their difference in standard deviations, which are
    pooled over both texts; units without variance count as 0.
    """
    result = []
    for one, other in zip(first, second, strict=True):
        pooled = (one.variance + other.variance) / 2
        squares = (one.mean - other.mean).square() / pooled
        result.append(float(torch.where(pooled > 0, squares, 0.0).mean().sqrt()))
    return result
