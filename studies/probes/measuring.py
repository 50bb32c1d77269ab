"""A probe on one architecture with several seeds: how well it does, and how sure that is."""

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
    """Accuracies from 0 to 1, one a seed."""

    settings: Probe
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Their mean."""
        return fmean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """Their standard deviation, as of a sample; None of a single one."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def to_dict(self) -> dict[str, Any]:
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
    """Trains a fresh model a seed.

    Raises:
        TrainingFailed: the loss of one is not finite or exploded.
    """
    started = time.monotonic()
    accuracies = tuple(train_probe(architecture, settings, seed, device, on_step=on_step) for seed in seeds)
    return ProbeResult(settings, seeds, accuracies, time.monotonic() - started)
