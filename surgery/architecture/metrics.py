"""Metrics by name: unit, better direction, and how values are written and read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from surgery.config.problems import nearest
from surgery.config.quantities import format_bytes, format_count, parse_bytes, parse_count

NANOSECONDS = 1_000_000  # in a millisecond
DEFAULT_CONTEXT = 4096  # tokens, where metrics that depend on the context length are shown and none is given


@dataclass(frozen=True)
class Metric:
    """A metric with its unit and the better direction (`min` or `max`).

    Attributes:
        analytic: computed from the architecture (`surgery.architecture.costs`), not measured.
        timed: the sum of the times of the architecture's blocks, each measured once on a device.
        steps: whole steps in one unit of the metric. Costs are counted in steps, which add up exactly:
            nanoseconds for milliseconds.
    """

    name: str
    unit: str
    better: str
    summary: str
    takes_context: bool = False
    analytic: bool = False
    timed: bool = False
    steps: int = 1

    @property
    def is_cost(self) -> bool:
        """Return whether the metric is known before an architecture is trained or assembled."""
        return self.analytic or self.timed

    def format(self, value: float) -> str:
        """Format a value in this metric's unit."""
        if self.unit == "bytes":
            return format_bytes(value)
        if self.timed:
            return f"{value:#.3g}" if abs(value) < 99.95 else f"{value:,.0f}"
        if self.analytic or self.unit == "tokens/s":
            return format_count(value)
        return f"{value:.3f}" if self.unit == "accuracy" else f"{value:.4f}"

    def parse(self, text: object) -> float:
        """Parse a limit in this metric's unit.

        Raises:
            ValueError: not a value of this metric; the message gives the expected form.
        """
        if self.unit == "bytes":
            return parse_bytes(text)
        if self.analytic:
            return parse_count(text)
        words = str(text).removesuffix(self.unit) if self.timed else str(text)  # 12ms and 12 ms
        try:
            value = float(words)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (self.timed and value < 0):
            raise ValueError(f"must be a number of {self.unit}")
        if self.unit == "accuracy" and not 0 <= value <= 1:
            raise ValueError("must be an accuracy from 0 to 1")
        return value


# val_loss extrapolated to 2 and 4 times the tokens of the run from its own learning curve
AHEAD = {f"val_loss@{times}x": times for times in (2, 4)}

# only measured of a rewritten pretrained model, and only of a model trained from scratch
TEACHED = ("kl", "retrieval", "retrieval_kl")
PROMPTED = ("retrieval", "retrieval_kl")  # need retrieval prompts
TRAINED = (*AHEAD, "recall", "state", "train_tokens_per_s", "peak_memory")

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("val_loss", "nats/token", "min", "cross-entropy on held-out text"),
        Metric("val_bpb", "bits/byte", "min", "the same per byte of text, comparable between tokenizers"),
        *(
            Metric(name, "nats/token", "min", f"val_loss extrapolated to {times} times the tokens")
            for name, times in AHEAD.items()
        ),
        Metric("recall", "accuracy", "max", "multi-query associative recall, from 0 to 1"),
        Metric("state", "accuracy", "max", "state tracking in words over a group, from 0 to 1"),
        Metric("kl", "nats/token", "min", "KL divergence of a rewritten model from the original"),
        Metric("retrieval", "accuracy", "max", "pass keys and values found by generating, from 0 to 1"),
        Metric("retrieval_kl", "nats/token", "min", "the same as kl, at the answers of retrieval prompts"),
        Metric("params", "parameters", "min", "stored parameters", analytic=True),
        Metric(
            "params_nonembedding", "parameters", "min", "stored parameters without embedding and head",
            analytic=True,
        ),
        Metric(
            "train_flops", "FLOPs/token", "min", "a training step at sequence length C",
            takes_context=True, analytic=True,
        ),
        Metric(
            "decode_flops", "FLOPs/token", "min", "one decoded token at context C",
            takes_context=True, analytic=True,
        ),
        Metric(
            "cache_bytes", "bytes", "min", "decode cache of one sequence at context C of a bfloat16 model",
            takes_context=True, analytic=True,
        ),
        Metric(
            "decode_ms", "ms", "min", "one decoded token at context C, summed over timed blocks",
            takes_context=True, timed=True, steps=NANOSECONDS,
        ),
        Metric(
            "prefill_ms", "ms", "min", "a prompt of T tokens, summed over timed blocks",
            takes_context=True, timed=True, steps=NANOSECONDS,
        ),
        Metric("train_tokens_per_s", "tokens/s", "max", "measured while training the proxy"),
        Metric("peak_memory", "bytes", "min", "measured while training the proxy"),
    )
}  # fmt: skip


def parse_metric(name: str) -> tuple[Metric, int | None]:
    """Parse `cache_bytes@4096` as (metric, 4096).

    Raises:
        ValueError: unknown metric, or a context missing, superfluous or not a positive count.
    """
    if name in AHEAD:
        return METRICS[name], None
    base, mark, text = str(name).partition("@")
    metric = METRICS.get(base)
    if metric is None:
        hint = nearest(base, METRICS) or f"metrics: {', '.join(METRICS)}"
        raise ValueError(f"is not a metric; {hint}")
    if not metric.takes_context:
        if mark:
            names = [base, *(item for item in AHEAD if item.startswith(f"{base}@"))]
            raise ValueError(f"takes no context: write {' or '.join(names)}")
        return metric, None
    if not mark:
        raise ValueError(f"needs a context in tokens, such as {base}@4096")
    try:
        context = parse_count(text)
    except ValueError:
        context = 0
    if context < 1:
        raise ValueError(f"context '{text}' must be a positive count of tokens, such as {base}@4096")
    return metric, context
