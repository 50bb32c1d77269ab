"""Exact costs of an architecture in closed form; tests compare them with counts on the built model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from surgery.architecture.architecture import Architecture, Layer
from surgery.config.quantities import format_bytes, format_count, parse_bytes, parse_count
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS


@dataclass(frozen=True)
class Metric:
    """A metric with its unit and the better direction (`min` or `max`)."""

    name: str
    unit: str
    better: str
    summary: str
    takes_context: bool = False
    analytic: Callable[[Architecture, int], int] | None = None

    def format(self, value: float) -> str:
        """Format a value in this metric's unit."""
        if self.unit == "bytes":
            return format_bytes(value)
        if self.analytic is not None or self.unit == "tokens/s":
            return format_count(value)
        return f"{value:.3f}" if self.unit == "accuracy" else f"{value:.4f}"

    def parse(self, text: object) -> float:
        """Parse a limit in this metric's unit.

        Raises:
            ValueError: not a value of this metric; the message gives the expected form.
        """
        if self.unit == "bytes":
            return parse_bytes(text)
        if self.analytic is not None:
            return parse_count(text)
        try:
            value = float(str(text))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"must be a number of {self.unit}")
        if self.unit == "accuracy" and not 0 <= value <= 1:
            raise ValueError("must be an accuracy from 0 to 1")
        return value


def params(arch: Architecture) -> int:
    """Count the stored parameters; tied embeddings count once."""
    backbone = arch.backbone
    embeddings = backbone.vocab_size * backbone.dim * (1 if backbone.tie_embeddings else 2)
    return embeddings + params_nonembedding(arch)


def params_nonembedding(arch: Architecture) -> int:
    """Count the stored parameters without embedding and head."""
    if "params_nonembedding" not in arch.figures:  # used by limits, objectives and descriptors
        arch.figures["params_nonembedding"] = _count_params(arch)
    return arch.figures["params_nonembedding"]


def _count_params(arch: Architecture) -> int:
    dim = arch.backbone.dim
    total = dim  # final norm
    if arch.loop_count > 1:
        total += arch.loop_count * dim  # residual gate of each pass
    for layer, count in arch.kinds:
        own = 2 * dim + MIXERS[layer.mixer].own_params(arch.backbone, layer.mixer_options)
        for item in layer.projections.values():
            spec = PROJECTION_OPERATORS[item.name]
            own += spec.params(item.d_in, item.d_out, item.options) + (item.d_out if item.bias else 0)
        total += count * own
    return total


def train_flops(arch: Architecture, length: int) -> int:
    """Count the matrix-multiply FLOPs per token of a training step at this sequence length.

    A multiply-add is 2 FLOPs; backward counts as twice the forward; attention is counted causally, so that a
    token at position p attends to p + 1 keys; recurrences are counted token by token, independent of the
    chunks in which they are computed. Norms, activations, the optimizer and the loss of an indexer are not
    counted.
    """
    mixing = sum(
        MIXERS[layer.mixer].mean_mixing_flops(arch.backbone, options, length)
        for layer in arch.layers
        for options in arch.pass_options(layer)
    )
    stack = sum(_layer_flops(arch, layer, training=True) for layer in arch.layers)
    return round(3 * (arch.loop_count * stack + mixing + _head_flops(arch)))


def decode_flops(arch: Architecture, context: int) -> int:
    """Count the matrix-multiply FLOPs of one decoded token that sees `context` tokens, itself included."""
    mixing = sum(
        count * MIXERS[layer.mixer].mixing_flops(arch.backbone, options, context)
        for layer, count in arch.kinds
        for options in arch.pass_options(layer)
    )
    stack = sum(count * _layer_flops(arch, layer, training=False) for layer, count in arch.kinds)
    return arch.loop_count * stack + mixing + _head_flops(arch)


def cache_bytes(arch: Architecture, context: int) -> int:
    """Return the decoding cache of one sequence after `context` tokens of a bfloat16 model, in bytes.

    Every loop pass has its own cache. Recurrent states are float32 and count as such.
    """
    return sum(
        count * MIXERS[layer.mixer].cache_bytes(arch.backbone, options, context)
        for layer, count in arch.kinds
        for options in arch.pass_options(layer)
    )


# val_loss extrapolated to 2 and 4 times the tokens of the run from its own learning curve
AHEAD = {f"val_loss@{times}x": times for times in (2, 4)}

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
        Metric("params", "parameters", "min", "stored parameters", analytic=lambda a, _: params(a)),
        Metric(
            "params_nonembedding", "parameters", "min", "stored parameters without embedding and head",
            analytic=lambda a, _: params_nonembedding(a),
        ),
        Metric(
            "train_flops", "FLOPs/token", "min", "a training step at sequence length C",
            takes_context=True, analytic=train_flops,
        ),
        Metric(
            "decode_flops", "FLOPs/token", "min", "one decoded token at context C",
            takes_context=True, analytic=decode_flops,
        ),
        Metric(
            "cache_bytes", "bytes", "min", "decode cache of one sequence at context C of a bfloat16 model",
            takes_context=True, analytic=cache_bytes,
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
    from surgery.config.problems import nearest

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


def cost(arch: Architecture, name: str) -> int:
    """Compute an analytic metric by name, such as `params` or `decode_flops@4096`.

    Raises:
        ValueError: not a metric, or one that only training can measure.
    """
    metric, context = parse_metric(name)
    if metric.analytic is None:
        raise ValueError(f"{name} is measured by training, not computed")
    return metric.analytic(arch, context or 0)


def _layer_flops(arch: Architecture, layer: Layer, *, training: bool) -> int:
    total = MIXERS[layer.mixer].own_flops(arch.backbone, layer.mixer_options)
    for item in layer.projections.values():
        spec = PROJECTION_OPERATORS[item.name]
        total += spec.flops(item.d_in, item.d_out, item.options, training=training)
    return total


def _head_flops(arch: Architecture) -> int:
    return 2 * arch.backbone.dim * arch.backbone.vocab_size
