"""The learning-rate schedule."""

from __future__ import annotations

import math

from studies.training.settings import TrainSettings


def schedule(step: int, settings: TrainSettings) -> float:
    """Return the share of the peak learning rate at a 1-based step: linear warm-up, cosine to `final_lr`."""
    warmup = settings.warmup_steps
    if step <= warmup:
        return step / warmup
    done = (step - warmup) / max(1, settings.steps - warmup)
    return settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
