"""Exact costs of an architecture in closed form; tests compare them with counts on the built model."""

from __future__ import annotations

from collections.abc import Callable

from surgery.architecture.architecture import Architecture
from surgery.architecture.block_times import BlockTimes, untimed
from surgery.architecture.layers import Layer
from surgery.architecture.metrics import parse_metric
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS


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
        total += (arch.loop_count - 1) * dim * arch.loop_inject  # gate of what later passes see again
    for layer, looped, count in arch.executed:
        total += count * (arch.loop_count - 1) * looped * _delta_params(arch, layer)
    for layer, count in arch.kinds:
        spec = MIXERS[layer.mixer]
        norms = spec.mixes + (layer.ffn_dim > 0)  # one before or after each part that the layer has
        own = norms * dim + spec.own_params(arch.backbone, layer.mixer_options)
        for item in layer.projections.values():
            operator = PROJECTION_OPERATORS[item.name]
            own += operator.params(item.d_in, item.d_out, item.options) + (item.d_out if item.bias else 0)
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
        count * MIXERS[layer.mixer].mean_mixing_flops(arch.backbone, options, length)
        for layer, looped, count in arch.executed
        for options in arch.pass_options(layer, looped=looped)
    )
    return round(3 * (_stack_flops(arch, training=True) + mixing + _head_flops(arch)))


def decode_flops(arch: Architecture, context: int) -> int:
    """Count the matrix-multiply FLOPs of one decoded token that sees `context` tokens, itself included."""
    mixing = sum(
        count * MIXERS[layer.mixer].mixing_flops(arch.backbone, options, context)
        for layer, looped, count in arch.executed
        for options in arch.pass_options(layer, looped=looped)
    )
    return _stack_flops(arch, training=False) + mixing + _head_flops(arch)


def cache_bytes(arch: Architecture, context: int) -> int:
    """Return the decoding cache of one sequence after `context` tokens of a bfloat16 model, in bytes.

    Every loop pass has its own cache. Recurrent states are float32 and count as such.
    """
    return sum(
        count * MIXERS[layer.mixer].cache_bytes(arch.backbone, options, context)
        for layer, looped, count in arch.executed
        for options in arch.pass_options(layer, looped=looped)
    )


# Formula of every analytic metric; the context is ignored by those that take none.
FORMULAS: dict[str, Callable[[Architecture, int], int]] = {
    "params": lambda arch, _: params(arch),
    "params_nonembedding": lambda arch, _: params_nonembedding(arch),
    "train_flops": train_flops,
    "decode_flops": decode_flops,
    "cache_bytes": cache_bytes,
}


def cost(arch: Architecture, name: str) -> int:
    """Compute an analytic metric by name, such as `params` or `decode_flops@4096`.

    Raises:
        ValueError: not a metric, or one that only training can measure.
    """
    metric, context = parse_metric(name)
    if not metric.analytic:
        raise ValueError(f"{name} is measured by training, not computed")
    return FORMULAS[metric.name](arch, context or 0)


def cost_in_steps(arch: Architecture, name: str, times: BlockTimes | None = None) -> int:
    """Compute a cost by name in whole steps (`Metric.steps`): an analytic metric, or a latency.

    Args:
        arch: the architecture.
        name: of the metric, such as `decode_ms@4096`.
        times: measured times of blocks, of which latencies are sums.

    Raises:
        ValueError: not a metric, or one that only training can measure.
        UserError: a latency without the times that it needs.
    """
    metric, context = parse_metric(name)
    if not metric.timed:
        return cost(arch, name)
    if times is None:
        raise untimed(name, "no blocks are timed yet")
    return times.nanoseconds(arch, metric.name, context or 0)


def cost_in_units(arch: Architecture, name: str, times: BlockTimes | None = None) -> float:
    """Compute a cost by name in the metric's own unit; see `cost_in_steps`."""
    return cost_in_steps(arch, name, times) / parse_metric(name)[0].steps


def _stack_flops(arch: Architecture, *, training: bool) -> int:
    """Return the FLOPs of all passes through all layers, without what depends on the context."""
    total = 0
    for layer, looped, count in arch.executed:
        later = arch.loop_count - 1 if looped else 0
        total += count * (1 + later) * _layer_flops(arch, layer, training=training)
        total += count * later * 2 * _delta_params(arch, layer)
    return total


def _delta_params(arch: Architecture, layer: Layer) -> int:
    """Return the parameters with which one later pass changes a layer's projections."""
    return arch.delta_rank * sum(item.d_in + item.d_out for item in layer.projections.values())


def _layer_flops(arch: Architecture, layer: Layer, *, training: bool) -> int:
    total = MIXERS[layer.mixer].own_flops(arch.backbone, layer.mixer_options)
    for item in layer.projections.values():
        spec = PROJECTION_OPERATORS[item.name]
        total += spec.flops(item.d_in, item.d_out, item.options, training=training)
    return total


def _head_flops(arch: Architecture) -> int:
    return 2 * arch.backbone.dim * arch.backbone.vocab_size
