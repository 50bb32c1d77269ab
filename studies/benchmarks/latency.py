"""Latencies as sums of block times, compared with whole models that are timed in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from studies.latency.measure import Clock, measure_model
from studies.latency.table import BlockTimer
from studies.latency.work import Setup
from studies.stats.rank_correlation import kendall
from surgery.architecture import Architecture
from surgery.architecture.block_times import BlockTimes
from surgery.architecture.costs import cost_in_units
from surgery.architecture.metrics import parse_metric
from surgery.architecture.timed_parts import timed_parts

Progress = Callable[[str, int, int], None]  # (stage, done, total)
WHOLE = "timing models"


@dataclass(frozen=True)
class SumAndWhole:
    """A latency of one architecture in milliseconds.

    Attributes:
        name: the user's name of the architecture.
        sum_ms: of the block times.
        whole_ms: of the whole model, the median over the repeats.
        spread: interquartile range of these over their median.
        graphs: whether the model and all its blocks were replayed as CUDA graphs.
    """

    name: str
    line: str
    metric: str
    sum_ms: float
    whole_ms: float
    spread: float
    graphs: bool

    @property
    def error(self) -> float:
        """The sum's relative error."""
        return self.sum_ms / self.whole_ms - 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "error": self.error}


@dataclass(frozen=True)
class Agreement:
    """Agreement of sums with whole models in one metric.

    Attributes:
        factor: geometric mean of whole / sum: what the sums miss or count twice in all models.
        error: mean of the sums' absolute relative errors.
        scaled_error: the same after all sums are multiplied by the factor.
        largest: largest absolute relative error.
        tau: Kendall's rank correlation of sums and whole models; NaN for fewer than two different ones.
    """

    metric: str
    factor: float
    error: float
    scaled_error: float
    largest: float
    tau: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "tau": None if np.isnan(self.tau) else self.tau}


def compare(
    architectures: Mapping[str, Architecture],
    metrics: Sequence[str],
    setup: Setup,
    known: BlockTimes | None = None,
    progress: Progress = lambda stage, done, total: None,
    clock: Clock | None = None,
) -> list[SumAndWhole]:
    """Time the blocks that are not known yet, then whole models.

    Args:
        architectures: by name.
        metrics: latencies such as `decode_ms@4096`.
        setup: device and batch.
        known: block times of a study; used if they are of this machine.
        progress: called with (stage, done, total).
        clock: tells seconds; None: that of the device.

    Raises:
        UserError: a block does not fit into memory, or the table can't be read or written.
    """
    timer = BlockTimer(setup, clock)
    usable = known is not None and dict(known.machine) == timer.machine
    times = BlockTimes(timer.machine, dict(known.known) if known is not None and usable else {})
    parts = [part for item in architectures.values() for part, _ in timed_parts(item)]
    timer.fill(times, parts, metrics, progress)
    result: list[SumAndWhole] = []
    total = len(architectures) * len(metrics)
    for name, architecture in architectures.items():
        for text in metrics:
            progress(WHOLE, len(result), total)
            metric, length = parse_metric(text)
            whole = measure_model(architecture, metric.name, length or 0, setup, clock)
            graphs = whole.graph and all(
                times.of(part, metric.name, length or 0).graph for part, _ in timed_parts(architecture)
            )
            summed = cost_in_units(architecture, text, times)
            milliseconds = 1000 * whole.seconds
            result.append(
                SumAndWhole(name, architecture.line, text, summed, milliseconds, whole.spread, graphs)
            )
    return result


def agreement(items: Sequence[SumAndWhole]) -> list[Agreement]:
    """Return the agreement of the sums with the whole models in each metric."""
    result = []
    for metric in dict.fromkeys(item.metric for item in items):
        own = [item for item in items if item.metric == metric]
        summed, whole = (np.array([getattr(item, name) for item in own]) for name in ("sum_ms", "whole_ms"))
        factor = float(np.exp(np.mean(np.log(whole / summed))))
        errors = np.abs(summed / whole - 1)
        tau = float(kendall(summed, whole)) if len(own) > 1 else float("nan")
        scaled = fmean(np.abs(factor * summed / whole - 1))
        result.append(Agreement(metric, factor, fmean(errors), scaled, float(errors.max()), tau))
    return result
