"""Probes: generated tasks to train an architecture on from scratch, for abilities that perplexity hides."""

from __future__ import annotations

from studies.probes.measuring import ProbeResult, measure
from studies.probes.training import accuracy, fresh_model, train_probe

__all__ = ["ProbeResult", "accuracy", "fresh_model", "measure", "train_probe"]
