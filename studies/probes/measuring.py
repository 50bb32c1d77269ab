"""A probe of one architecture with several seeds: mean accuracy and its spread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch

from search_spaces.probes.base import Probe
from studies.probes.training import train_probe
from studies.training.loop import Progress
from surgery.architecture import Architecture


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies from 0 to 1, one per seed."""

    settings: Probe
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Mean accuracy."""
        return fmean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation of the accuracies; None for a single seed."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "probe": self.settings.name,
            "settings": self.settings.to_dict(),
            "accuracy": self.accuracy,
            "spread": self.spread,
            "chance": self.settings.chance,
            "seeds": list(self.seeds),
            "accuracies": list(self.accuracies),
            "seconds": self.seconds,
        }


def measure(
    architecture: Architecture,
    settings: Probe,
    seeds: tuple[int, ...],
    device: torch.device,
    on_step: Callable[[Progress], None] | None = None,
) -> ProbeResult:
    """Train one new model per seed and measure its accuracy.

    Raises:
        TrainingFailed: the loss of a model is not finite or exploded.
    """
    started = time.monotonic()
    accuracies = tuple(train_probe(architecture, settings, seed, device, on_step=on_step) for seed in seeds)
    return ProbeResult(settings, seeds, accuracies, time.monotonic() - started)
