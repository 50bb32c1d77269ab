"""Offsets between the mean latents of two texts: a direction to steer in, written as an adapter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from studies.evaluation.model_folder import Checkpoint
from studies.latents.reading import Reading, distances
from surgery.latents.adapter import Adapter, hash_weights


@dataclass(frozen=True)
class Contrast:
    """The latents of a text that has an attribute, and of one that has it not."""

    having: Reading
    lacking: Reading

    @property
    def distances(self) -> list[float]:
        """Distances of the means per projection, see `studies.latents.reading.distances`."""
        return distances(self.having.statistics, self.lacking.statistics)

    def adapter(self, checkpoint: Checkpoint, *, times: float, layers: Collection[int]) -> Adapter:
        """Return the adapter that adds `times` the difference of the means in these layers."""
        pairs = zip(self.having.statistics, self.lacking.statistics, strict=True)
        offsets = {
            one.latent: (times * (one.mean - other.mean)).float()
            for one, other in pairs
            if one.latent.layer in layers
        }
        made = {"by": "contrast", "times": times, "having": _of(self.having), "lacking": _of(self.lacking)}
        return Adapter(offsets, checkpoint.name, hash_weights(checkpoint.model), made)


def _of(reading: Reading) -> dict[str, Any]:
    return {"text": reading.text, "tokens": reading.tokens, "seq_len": reading.seq_len}
