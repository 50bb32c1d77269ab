"""Gated DeltaNet against transformers' Qwen3-Next and against token loops in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
from transformers.models.qwen3_next.modeling_qwen3_next import (
    Qwen3NextGatedDeltaNet,
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

from surgery.config.backbone import Backbone
from surgery.context import DecodeCache
from surgery.mixers.gdn import GatedDeltaSpec
from surgery.mixers.gdn.delta_rule import chunkwise, delta_rule, stepwise
from surgery.mixers.gdn.module import GatedDeltaNet
from surgery.mixers.gdn.sizes import matched, resolve
from surgery.mixers.softmax import attention_projections
from surgery.projections.dense.module import Dense
from tests.models import architecture, build, context, decode
from tests.strategies import option_sets, read_backbone

SPEC = GatedDeltaSpec()
DEFAULTS = {name: option.default for name, option in SPEC.options.items()}
SHORTEST = {name: value for name, value in DEFAULTS.items() if name != "norm_eps"}  # of canonical forms
FORMS = {"chunkwise": chunkwise, "stepwise": stepwise, "chosen": delta_rule}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def inputs(
    length: int, *, batch: int = 2, heads: int = 3, key: int = 8, value: int = 5, fade: float = 2.0
) -> tuple[list[Tensor], Tensor]:
    """Double-precision (q, k, v, g, beta) and a state; rates from nothing to all."""
    torch.manual_seed(length)
    options: dict[str, Any] = {"dtype": torch.float64}
    q, k = (nn.functional.normalize(torch.randn(batch, heads, length, key, **options), dim=-1) for _ in "qk")
    v = torch.randn(batch, heads, length, value, **options)
    g = -fade * torch.rand(batch, heads, length, **options) ** 3
    beta = torch.rand(batch, heads, length, **options)
    return [q * key**-0.5, k, v, g, beta], torch.randn(batch, heads, key, value, **options)


def token_loop(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = alpha_t S_(t-1) (I - beta_t k_t k_t^T) + beta_t v_t k_t^T as printed (eq. 10), S (v, k)."""
    s = state.transpose(-1, -2)
    unit = torch.eye(q.shape[-1], dtype=q.dtype)
    outputs = []
    for t in range(q.shape[2]):
        alpha = g[:, :, t, None, None].exp() if g is not None else 1.0
        rate = beta[:, :, t, None, None]
        key = k[:, :, t, :, None]
        s = alpha * s @ (unit - rate * key @ key.mT) + rate * v[:, :, t, :, None] @ key.mT
        outputs.append((s @ q[:, :, t, :, None])[..., 0])
    return torch.stack(outputs, dim=2), s.transpose(-1, -2)


def single(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.float() for tensor in tensors]


@every_form
@given(length=st.integers(1, 130), started=st.booleans())
def test_equals_transformers(form: Callable[..., Any], length: int, started: bool) -> None:
    given_, state = inputs(length)
    q, k, v, g, beta = single(given_)
    state = state.float() if started else torch.zeros_like(state).float()
    rows = [x.transpose(1, 2) for x in (q * q.shape[-1] ** 0.5, k, v)]  # theirs scale the query
    rates = {"g": g.transpose(1, 2), "beta": beta.transpose(1, 2)}
    y, last = form(q, k, v, g, beta, state)
    for theirs in (torch_recurrent_gated_delta_rule, torch_chunk_gated_delta_rule):
        expected, after = theirs(*rows, **rates, initial_state=state, output_final_state=True)
        torch.testing.assert_close(y.transpose(1, 2), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(last, after, rtol=1e-5, atol=1e-5)


@every_form
@pytest.mark.parametrize("length", [1, 2, 8, 9, 63, 64, 65, 130])
@pytest.mark.parametrize("decay", [True, False])
def test_values_and_gradients_equal_the_printed_recurrence(
    form: Callable[..., Any], length: int, decay: bool
) -> None:
    given_, state = inputs(length)
    leaves = [tensor.requires_grad_() for tensor in (*given_, state)]
    q, k, v, g, beta, state = leaves
    wanted = [leaf for leaf in leaves if decay or leaf is not g]
    weights = torch.randn(2, 3, length, 5, dtype=torch.float64)
    results = []
    for rule in (form, token_loop):
        y, last = rule(q, k, v, g if decay else None, beta, state)
        loss = (y * weights).sum() + last.square().sum()
        results.append((y, last, *torch.autograd.grad(loss, wanted)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@every_form
@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_the_same_key_over_and_over_stays_exact(form: Callable[..., Any], beta: float, noise: float) -> None:
    """Powers of the matrix to be inverted then reach 1e18 in a chunk. Beta 2 forgets nothing, not even a
    rounding: after 200 tokens those are 200 times float32's 1.2e-7."""
    given_, state = inputs(200, fade=0.0)
    q, k, v, g, _ = given_
    k = nn.functional.normalize(k[:, :, :1] + noise * k, dim=-1)
    rates = torch.full_like(g, beta)
    exact, last = token_loop(q, k, v, None, rates, state)
    y, after = form(*single([q, k, v]), None, rates.float(), state.float())
    limit = 1e-6 if beta == 1 else 5e-5
    assert (y - exact).norm() < limit * exact.norm()
    assert (after - last).norm() < limit * last.norm()


@every_form
def test_a_state_that_vanishes_at_once_stays_finite(form: Callable[..., Any]) -> None:
    """exp(-g) of such decays overflows, so exponents ahead of time must be masked first."""
    given_, state = inputs(100)
    q, k, v, _, beta = given_
    g = torch.full(beta.shape, -100.0, dtype=torch.float64)
    leaves = [tensor.float().requires_grad_() for tensor in (q, k, v, g, beta, state)]
    y, last = form(*leaves)
    torch.testing.assert_close(y.double(), token_loop(q, k, v, g, beta, state)[0], rtol=1e-5, atol=1e-5)
    for gradient in torch.autograd.grad(y.sum() + last.sum(), leaves):
        assert torch.isfinite(gradient).all()


@given(length=st.integers(1, 100), chunk=st.integers(1, 70))
def test_any_chunk_gives_the_same(length: int, chunk: int) -> None:
    given_, state = inputs(length)
    for ours, theirs in zip(chunkwise(*given_, state, chunk=chunk), stepwise(*given_, state), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("length", [1, 70])
def test_autocast_leaves_the_rule_alone(length: int) -> None:
    given_, state = inputs(length)
    leaves = [*single(given_), state.float()]
    plain = delta_rule(*leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = delta_rule(*leaves)
    assert y.dtype == last.dtype == torch.float32
    torch.testing.assert_close((y, last), plain, rtol=0, atol=0)


def make(backbone: dict[str, Any] | None = None, **options: Any) -> GatedDeltaNet:
    """A layer of dense projections, every parameter off its start."""
    arch = architecture("G", mixers={"G": options}, num_layers=1, **(backbone or {}))
    mixer = build(arch, spread=0.2).layers[0].mixer
    assert isinstance(mixer, GatedDeltaNet)
    return mixer


def qwen(mixer: GatedDeltaNet) -> Qwen3NextGatedDeltaNet:
    """transformers' layer with our weights: it fuses q k v z and beta, decay, head by head."""
    sizes = mixer.sizes
    config = Qwen3NextConfig(
        hidden_size=sizes.dim, linear_num_value_heads=sizes.heads, linear_num_key_heads=sizes.heads,
        linear_key_head_dim=sizes.key, linear_value_head_dim=sizes.value, linear_conv_kernel_dim=sizes.conv,
        hidden_act="silu", rms_norm_eps=mixer.norm.eps, num_hidden_layers=1, layer_types=["linear_attention"],
    )  # fmt: skip
    theirs = Qwen3NextGatedDeltaNet(config, 0).eval()

    def fused(*maps: Any) -> Tensor:
        return torch.cat([m.weight.unflatten(0, (sizes.heads, -1)) for m in maps], dim=1).flatten(0, 1)

    weights = {
        "in_proj_qkvz.weight": fused(mixer.q, mixer.k, mixer.v, mixer.output_gate),
        "in_proj_ba.weight": fused(mixer.beta, mixer.decay),
        "conv1d.weight": mixer.conv, "dt_bias": mixer.dt_bias, "A_log": mixer.A_log,
        "norm.weight": mixer.norm.weight, "out_proj.weight": mixer.o.weight,
    }  # fmt: skip
    theirs.load_state_dict(weights)
    return theirs


@pytest.mark.parametrize("length", [1, 3, 8, 9, 64, 65, 100])
@pytest.mark.parametrize(
    "options",
    [{}, {"heads": 2, "expand_v": 1.0, "conv_size": 2}, {"key_ratio": 0.75}, {"heads": 1, "conv_size": 8}],
    ids=str,
)
def test_a_layer_equals_that_of_qwen3_next(options: dict[str, Any], length: int) -> None:
    mixer = make({"dim": 64, "num_heads": 4, "head_dim": 16, "num_kv_heads": 4}, **options)
    theirs = qwen(mixer)
    x = torch.randn(2, length, 64, requires_grad=True)
    ours, expected = mixer(x, context()), theirs(x)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(ours)
    pairs = [(mixer.o.weight, theirs.out_proj.weight), (mixer.conv, theirs.conv1d.weight), (x, x)]
    pairs += [
        (mixer.A_log, theirs.A_log),
        (mixer.dt_bias, theirs.dt_bias),
        (mixer.norm.weight, theirs.norm.weight),
    ]
    for one, two in pairs:
        (mine,) = torch.autograd.grad((ours * weights).sum(), one, retain_graph=True)
        (other,) = torch.autograd.grad((expected * weights).sum(), two, retain_graph=True)
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("conv_size", [0, 4])
def test_left_padding_equals_a_shorter_sequence_to_the_last_state(conv_size: int) -> None:
    backbone = {"biases": ["q", "k", "v", "o"]}  # padding is not zero behind a bias
    mixer = make(backbone, conv_size=conv_size)
    x = torch.randn(1, 20, 24)
    padding = torch.arange(20)[None] >= 11
    padded, alone = DecodeCache(), DecodeCache()
    y = mixer(x, context(padding=padding, cache=padded))
    expected = mixer(x[:, 11:], context(cache=alone))
    torch.testing.assert_close(y[:, 11:], expected, rtol=1e-5, atol=1e-5)
    for one, two in zip(padded.states[0, 0], alone.states[0, 0], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_padding_is_finite_where_the_norm_has_no_epsilon() -> None:
    mixer = make({"norm_eps": 0.0})
    x = torch.randn(1, 6, 24, requires_grad=True)
    y = mixer(x, context(padding=torch.arange(6)[None] >= 3))
    assert torch.isfinite(y).all()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(gradient).all()


def test_what_is_kept_has_its_dtypes() -> None:
    for cast, columns, state in (
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float64, torch.float64),
    ):
        cache = DecodeCache()
        mixer = make().to(cast)
        for length in (5, 1):
            mixer(torch.randn(2, length, 24, dtype=cast), context(cache=cache))
            assert [kept.dtype for kept in cache.states[0, 0]] == [columns, state]
    cache = DecodeCache()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        make()(torch.randn(2, 5, 24), context(cache=cache))
    assert [kept.dtype for kept in cache.states[0, 0]] == [torch.bfloat16, torch.float32]


def test_what_is_kept_does_not_hold_on_to_the_prompt() -> None:
    cache = DecodeCache()
    mixer = make()
    with torch.no_grad():
        mixer(torch.randn(1, 300, 24), context(cache=cache))
    for kept in cache.states[0, 0]:
        assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


def test_a_long_prompt_in_pieces() -> None:
    model = build(architecture("G", num_layers=1), spread=0.2)
    tokens = torch.randint(37, (1, 700))
    with torch.no_grad():
        pieces = decode(model, tokens, [300, 1, 64, 8, 9, 318])
        torch.testing.assert_close(pieces, model(tokens), rtol=1e-4, atol=1e-4)


def test_negative_eigenvalues_double_beta() -> None:
    plain, doubled = make(), make(negative_eigenvalues=True)
    doubled.load_state_dict(plain.state_dict())
    x = torch.randn(2, 5, 24)
    one, two = (mixer._rates(x, None, torch.float32) for mixer in (plain, doubled))
    torch.testing.assert_close(two[1], 2 * one[1], rtol=0, atol=0)
    assert two[1].max() > 1
    torch.testing.assert_close(one[0], two[0], rtol=0, atol=0)


def test_starts_as_the_paper_does() -> None:
    backbone = read_backbone(
        {"vocab_size": 5, "dim": 16, "num_layers": 1, "num_heads": 200, "head_dim": 2, "ffn_dim": 8}
    )
    sizes = resolve(backbone, DEFAULTS)
    mixer = GatedDeltaNet(sizes, lambda name: Dense(*sizes.projections[name], bias=False), 1e-6)
    assert mixer.A_log is not None
    assert mixer.dt_bias is not None
    rate, step = mixer.A_log.exp(), nn.functional.softplus(mixer.dt_bias)
    assert 0 < rate.min() < 1
    assert 15 < rate.max() <= 16
    assert 7 < rate.mean() < 9
    assert 1e-3 * 0.999 <= step.min() < 1.5e-3
    assert 0.08 < step.max() <= 0.1001
    assert abs(step.log().mean().exp() - 1e-2) < 3e-3  # log-uniform


WHOLE = {  # as many key heads as query heads
    "HDPL 512": {"dim": 512, "num_heads": 8, "head_dim": 64},
    "LT2 1024": {"dim": 1024, "num_heads": 16, "head_dim": 64},
    "LT2 2048": {"dim": 2048, "num_heads": 16, "head_dim": 128},
    "SmolLM2 1.7B": {"dim": 2048, "num_heads": 32, "head_dim": 64},
}
GROUPED = {
    "SmolLM2 135M": {"dim": 576, "num_heads": 9, "num_kv_heads": 3, "head_dim": 64},
    "Qwen3 0.6B": {"dim": 1024, "num_heads": 16, "num_kv_heads": 8, "head_dim": 128},
    "Llama 3.2 1B": {"dim": 2048, "num_heads": 32, "num_kv_heads": 8, "head_dim": 64},
}


@pytest.mark.parametrize("name", WHOLE | GROUPED)
def test_default_sizes_match_the_attention_they_replace(name: str) -> None:
    sizes = (WHOLE | GROUPED)[name]
    backbone = read_backbone({"vocab_size": 5, "num_layers": 1, "ffn_dim": 8, **sizes})
    ours = resolve(backbone, DEFAULTS)
    target = sum(d_in * d_out for d_in, d_out in attention_projections(backbone).values())
    assert ours.value == 2 * ours.key
    step = 8 * ours.dim * ours.heads * (2 + 3 * 2)  # weights of 8 more channels a key
    assert abs(ours.matrices - target) <= step / 2
    if name in WHOLE:
        assert abs(ours.matrices / target - 1) < 0.02


@given(data=st.data())
def test_no_other_key_size_matches_better(data: st.DataObject) -> None:
    heads = data.draw(st.integers(1, 12))
    backbone = read_backbone({
        "vocab_size": 5, "num_layers": 1, "ffn_dim": 8, "dim": data.draw(st.integers(1, 400)),
        "num_heads": heads, "head_dim": 2 * data.draw(st.integers(1, 64)),
    })  # fmt: skip
    options = DEFAULTS | {
        "expand_v": data.draw(st.floats(0.25, 4)), "heads": data.draw(st.integers(0, 20)),
        "gate": data.draw(st.booleans()), "decay": data.draw(st.booleans()),
    }  # fmt: skip
    ours = matched(backbone, options)
    target = sum(d_in * d_out for d_in, d_out in attention_projections(backbone).values())
    for key in range(8, 1600, 8):
        ratio = key * ours.heads / backbone.dim
        other = resolve(backbone, {**options, "key_ratio": ratio})
        assert other.key == key
        assert abs(other.matrices - target) >= abs(ours.matrices - target)


def test_lt2_sizes() -> None:
    """LT2 (arXiv 2605.20670): keys 0.75 dim, values 1.5 dim: 6 dim^2 weights and two thin maps."""
    backbone = read_backbone(
        {"vocab_size": 5, "num_layers": 1, "ffn_dim": 8, "dim": 2048, "num_heads": 16, "head_dim": 128}
    )
    sizes = resolve(backbone, DEFAULTS | {"key_ratio": 0.75})
    assert (sizes.heads, sizes.key, sizes.value) == (16, 96, 192)
    assert sizes.matrices == 6 * 2048**2 + 2 * 2048 * 16


BACKBONES = [
    {"dim": 1, "num_heads": 12, "head_dim": 2}, {"dim": 24, "num_heads": 4, "head_dim": 6},
    {"dim": 64, "num_heads": 2, "head_dim": 40}, {"dim": 512, "num_heads": 8, "head_dim": 64},
]  # fmt: skip


@pytest.mark.parametrize("sizes", BACKBONES, ids=str)
def test_canonical_options_are_allowed_stable_and_one_for_each_model(sizes: dict[str, int]) -> None:
    backbone: Backbone = read_backbone({"vocab_size": 5, "num_layers": 1, "ffn_dim": 8, **sizes})
    spelled: dict[Any, dict[str, Any]] = {}
    for options in option_sets(SPEC.options):
        canonical = SPEC.canonical(backbone, options)
        own_eps = options["norm_eps"] not in (0, backbone.norm_eps)
        assert canonical.keys() | {"norm_eps"} == options.keys()
        assert ("norm_eps" in canonical) == own_eps
        for name, value in canonical.items():
            assert SPEC.options[name].read(value) == value
        model = resolve(backbone, options)
        assert resolve(backbone, canonical) == model
        assert SPEC.canonical(backbone, canonical) == canonical
        key = (model, options["norm_eps"] if own_eps else None)
        assert spelled.setdefault(key, canonical) == canonical
    assert SPEC.canonical(backbone, DEFAULTS)["key_ratio"] == 0.0


def test_other_spellings_of_the_same_model() -> None:
    backbone = read_backbone(
        {"vocab_size": 5, "num_layers": 1, "ffn_dim": 8, "dim": 512, "num_heads": 8, "head_dim": 64}
    )
    assert resolve(backbone, DEFAULTS).key == 32
    for other in ({"key_ratio": 0.5}, {"key_ratio": 0.51, "heads": 8}, {"conv_size": 4, "expand_v": 2.001}):
        assert SPEC.canonical(backbone, DEFAULTS | other) == SHORTEST
    none = SPEC.canonical(backbone, DEFAULTS | {"conv_size": 1})
    assert none == SPEC.canonical(backbone, DEFAULTS | {"conv_size": 0}) == SHORTEST | {"conv_size": 0}
    same = {"norm_eps": backbone.norm_eps}
    assert SPEC.canonical(backbone, DEFAULTS | same) == SHORTEST


@pytest.mark.parametrize(
    "options", [{}, {"conv_size": 0}, {"heads": 2, "expand_v": 1.0, "decay": False}], ids=str
)
def test_costs_do_not_grow_with_context(options: dict[str, Any]) -> None:
    backbone = architecture("G").backbone
    full = DEFAULTS | options
    sizes = resolve(backbone, full)
    for length in (1, 64, 100_000):
        columns = 2 * sizes.channels * max(0, sizes.conv - 1)
        assert SPEC.cache_bytes(backbone, full, length) == columns + 4 * sizes.heads * sizes.key * sizes.value
        assert SPEC.mixing_flops(backbone, full, length) == 6 * sizes.heads * sizes.key * sizes.value
