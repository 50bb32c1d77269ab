"""Costs by arithmetic equal counts on the built model: tensors, and FLOPs as torch dispatches them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.architecture.metrics import METRICS, parse_metric
from surgery.config.yaml_source import load_yaml
from surgery.context import DecodeCache
from surgery.mixers import MIXERS
from surgery.mixers.sparse.module import SparseAttention
from surgery.model import HybridLM
from tests.models import architecture
from tests.strategies import architectures
from tests.surgery.test_architecture import EXAMPLE


def example(text: str = EXAMPLE) -> Architecture:
    return Architecture.from_dict(load_yaml("example", text=text).data)


def added_product(total: list[int], left: list[int], right: list[int], **_: object) -> int:
    """FLOPs, from shapes."""
    return 2 * left[0] * left[1] * right[1]


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts every matrix product; attention as the two products it is, over all pairs it is given."""
    in_place = {torch.ops.aten.addmm_: added_product}  # which torch counts only out of place
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=in_place) as counter,
    ):
        yield counter


def decoded_flops(model: HybridLM, length: int) -> int:
    """FLOPs of one sequence fed token by token: each token meets its own past, nothing masked is computed."""
    cache = DecodeCache()
    with counting() as counter, torch.no_grad():
        for token in torch.randint(model.architecture.backbone.vocab_size, (length, 1, 1)):
            model.head(model(token, cache=cache))
    return int(counter.get_total_flops())


# -- figure 2 of the issue


def test_the_paper_counts_exactly() -> None:
    hybrid = example()
    dense = example(EXAMPLE.replace("operator: hdpl, blocks: 8, rank: 128, kl_weight: 1.0e-3, kl: reference",
                                    "operator: dense"))  # fmt: skip
    assert cost(dense, "params") == 67_113_472
    assert cost(hybrid, "params") == 62_531_072
    for arch in (dense, hybrid):
        with torch.device("meta"):
            model = HybridLM(arch)
        assert sum(parameter.numel() for parameter in model.parameters()) == cost(arch, "params")


def test_the_paper_tied() -> None:
    tied = EXAMPLE.replace("tie_embeddings: false", "tie_embeddings: true")
    assert round(cost(example(tied), "params") / 1e6, 2) == 37.37
    assert cost(example(tied), "params_nonembedding") == cost(example(), "params_nonembedding")


@given(architectures(), st.integers(1, 12))
def test_analytic_costs_equal_counts_on_the_built_model(arch: Architecture, context: int) -> None:
    model = HybridLM(arch).eval()
    counted = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert cost(arch, "params") == sum(counted.values())
    body = sum(size for name, size in counted.items() if name.split(".")[0] not in ("embed", "head"))
    assert cost(arch, "params_nonembedding") == body

    cache = DecodeCache()
    tokens = torch.randint(arch.backbone.vocab_size, (1, context))
    with torch.no_grad(), counting() as counter:
        if context > 1:
            model(tokens[:, :-1], cache=cache)
        before = counter.get_total_flops()
        model.head(model(tokens[:, -1:], cache=cache))
    assert cost(arch, f"decode_flops@{context}") == counter.get_total_flops() - before

    cache = DecodeCache()
    with torch.no_grad():
        model.bfloat16()(tokens, cache=cache)
    assert cost(arch, f"cache_bytes@{context}") == cache.bytes


def without_index_loss(model: HybridLM) -> HybridLM:
    """Announced FLOPs are those of the model, not of the loss that teaches an indexer."""
    for module in model.modules():
        if isinstance(module, SparseAttention):
            module.index_weight = 0.0
    return model


@settings(max_examples=30)
@given(architectures(), st.integers(1, 9))
def test_train_flops_are_three_forwards_with_causal_attention(arch: Architecture, length: int) -> None:
    # training computes what evaluation leaves out, such as the latent's variance
    model = without_index_loss(HybridLM(arch).train())
    assert cost(arch, f"train_flops@{length}") * length == pytest.approx(
        3 * decoded_flops(model, length), abs=length
    )


@settings(max_examples=30)
@given(architectures(), st.integers(1, 9))
def test_backward_really_costs_two_forwards(arch: Architecture, length: int) -> None:
    if not set(arch.layout) <= set("FWK"):  # torch counts the gradients of short convolutions as if dense
        return
    model = HybridLM(arch).train()
    tokens = torch.randint(arch.backbone.vocab_size, (1, length))
    with counting() as counter, torch.no_grad():
        model.loss(tokens, tokens)
    forward = counter.get_total_flops()
    with counting() as counter:  # the loss takes its own gradients on the way forward
        loss, auxiliary = model.loss(tokens, tokens)
        (loss + auxiliary).backward()
    # without exception: even the first layer's input needs a gradient, for the embedding
    assert counter.get_total_flops() == 3 * forward
    # what the real kernel computes above the causal triangle is not counted in the metric
    if set(arch.layout) == {"F"} and not any(arch.loop_windows):
        sizes = arch.backbone
        above = 4 * sizes.num_heads * sizes.head_dim * (length - 1) / 2 * arch.depth
        assert cost(arch, f"train_flops@{length}") == pytest.approx(3 * (forward / length - above))


def test_a_span_costs_what_its_layers_cost_once_more() -> None:
    """Two of four layers run three times, and `inject` adds two gates of the width."""
    window = {"W": {"window": 3}}
    once = architecture("FGWF", mixers=window, num_layers=4)
    looped = architecture("FGWF", mixers=window, num_layers=4, loops=3, span="1-2")
    inner = architecture("GW", mixers=window)
    dim, head = once.backbone.dim, 2 * once.backbone.dim * once.backbone.vocab_size
    assert cost(looped, "params") == cost(once, "params") + 3 * dim
    assert cost(replace(looped, loop_inject=True), "params") == cost(looped, "params") + 2 * dim
    assert cost(looped, "cache_bytes@7") == cost(once, "cache_bytes@7") + 2 * cost(inner, "cache_bytes@7")
    again = 2 * (cost(inner, "decode_flops@7") - head)
    assert cost(looped, "decode_flops@7") == cost(once, "decode_flops@7") + again


def test_what_later_passes_change_costs_two_thin_matrices_a_projection_and_pass() -> None:
    looped = architecture("FGWF", num_layers=4, loops=3, span="1-2")
    thin = (
        2
        * 5
        * sum(item.d_in + item.d_out for layer in looped.layers[1:3] for item in layer.projections.values())
    )  # two later passes of rank 5
    changed = replace(looped, loop_delta_rank=5)
    assert cost(changed, "params") == cost(looped, "params") + thin
    assert cost(changed, "decode_flops@7") == cost(looped, "decode_flops@7") + 2 * thin
    assert cost(changed, "train_flops@7") == cost(looped, "train_flops@7") + 6 * thin
    assert cost(changed, "cache_bytes@7") == cost(looped, "cache_bytes@7")


@given(architectures(max_loops=1), st.integers(2, 5))
def test_what_loops_multiply(arch: Architecture, loops: int) -> None:
    arch = replace(arch, loop_windows=(), loop_span=None, loop_inject=False, loop_delta_rank=0)
    looped = replace(arch, loop_count=loops)
    head = 2 * arch.backbone.dim * arch.backbone.vocab_size
    assert cost(looped, "params") == cost(arch, "params") + loops * arch.backbone.dim
    assert cost(looped, "cache_bytes@7") == loops * cost(arch, "cache_bytes@7")
    assert cost(looped, "decode_flops@7") - head == loops * (cost(arch, "decode_flops@7") - head)
    assert cost(looped, "train_flops@7") - 3 * head == pytest.approx(
        loops * (cost(arch, "train_flops@7") - 3 * head), abs=loops
    )


# -- names, units, limits


@pytest.mark.parametrize(
    ("name", "base", "context"),
    [
        ("params", "params", None), ("val_loss", "val_loss", None), ("cache_bytes@4096", "cache_bytes", 4096),
        ("decode_flops@4k", "decode_flops", 4000), ("train_flops@1", "train_flops", 1),
    ],
)  # fmt: skip
def test_metric_names(name: str, base: str, context: int | None) -> None:
    assert parse_metric(name) == (METRICS[base], context)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("param", 'did you mean "params"'), ("", "is not a metric; metrics: "),
        ("params@5", "takes no context"), ("val_loss@8x", "write val_loss or val_loss@2x or val_loss@4x"),
        ("cache_bytes", "needs a context in tokens, such as cache_bytes@4096"),
        ("cache_bytes@", "context ''"),
        ("cache_bytes@0", "context '0'"), ("cache_bytes@-4", "context '-4'"),
        ("cache_bytes@4.5", "positive count"),
        ("cache_bytes@4@5", "positive count"), ("params@", "takes no context"),
    ],
)  # fmt: skip
def test_refused_metric_names(name: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse_metric(name)


@pytest.mark.parametrize("name", ["val_loss", "val_bpb", "recall", "train_tokens_per_s", "peak_memory"])
def test_measured_metrics_are_not_computed(name: str) -> None:
    with pytest.raises(ValueError, match="measured by training"):
        cost(example(), name)


@pytest.mark.parametrize(
    ("name", "limit", "value", "shown"),
    [
        ("params", "70M", 70_000_000, "70.0M"), ("cache_bytes", "8MiB", 8 * 2**20, "8.0 MiB"),
        ("peak_memory", "2GB", 2 * 10**9, "1.9 GiB"), ("val_loss", "3.25", 3.25, "3.2500"),
        ("train_tokens_per_s", "120", 120.0, "120"), ("recall", "0.9", 0.9, "0.900"),
    ],
)  # fmt: skip
def test_limits_are_read_and_values_shown_in_the_metrics_unit(
    name: str, limit: str, value: float, shown: str
) -> None:
    assert METRICS[name].parse(limit) == value
    assert METRICS[name].format(value) == shown


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("params", "8MiB"), ("cache_bytes", "x"), ("val_loss", "low"), ("val_loss", "nan"),
        ("val_loss", "inf"), ("recall", "90"), ("recall", "-1"), ("recall", "high"),
    ],
)  # fmt: skip
def test_refused_limits(name: str, limit: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        METRICS[name].parse(limit)


def test_every_metric_has_unit_direction_and_summary() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.unit
        assert metric.summary
        assert metric.better in ("min", "max")


def test_costs_are_whole_and_grow_with_context() -> None:
    for metric in METRICS.values():
        if not metric.analytic:
            continue
        name = f"{metric.name}@" if metric.takes_context else metric.name
        values = [cost(example(), f"{name}{n}" if metric.takes_context else name) for n in (1, 512, 4096)]
        assert all(type(value) is int for value in values)
        assert values == sorted(values)


def test_a_long_sequence_is_costed() -> None:
    """Every mixer has a closed form where it matters, or the default sum is quick enough."""
    for letter in MIXERS:
        arch = Architecture.from_dict({**example().to_dict(), "layout": letter})
        assert cost(arch, "train_flops@32768") > cost(arch, "params_nonembedding")
