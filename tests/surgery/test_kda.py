"""Kimi Delta Attention against the paper's recurrence, token by token in double precision.

`recurrence` and `layer` are written from arXiv 2510.26692, section 3. Read beside flash-linear-attention at
bc3b101d: `naive_recurrent_kda` (fla/ops/kda/naive.py) decays the state before it reads k from it, and
fla/layers/kda.py has the same maps, rank and start. One thing differs: its output gate has a bias, which
neither the paper's equation nor the released models have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from surgery.context import Context
from surgery.mixers.delta.recurrence import token_by_token
from surgery.mixers.gdn.delta_rule import chunkwise as chunks_of_one_decay
from surgery.mixers.kda import KimiDeltaSpec
from surgery.mixers.kda.channel_rule import channel_rule, chunkwise
from surgery.mixers.kda.module import KimiDeltaAttention
from surgery.mixers.kda.sizes import resolve
from surgery.mixers.kda.transplant import transplant
from surgery.mixers.softmax import attention_projections
from surgery.ops.rotary import rotary_tables
from tests.models import architecture, build, context
from tests.strategies import option_sets, read_backbone

SPEC = KimiDeltaSpec()
DEFAULTS = {name: option.default for name, option in SPEC.options.items()}
FORMS = {"chunkwise": chunkwise, "stepwise": token_by_token, "chosen": channel_rule}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def inputs(length: int, *, fade: float = 2.0, key: int = 8, value: int = 5) -> list[Tensor]:
    """Double-precision q, k, v, g, beta and a state; decays from none to exp(-fade), by channel."""
    torch.manual_seed(length)
    shape, options = (2, 3, length), {"dtype": torch.float64}
    q, k = (F.normalize(torch.randn(*shape, key, **options), dim=-1) for _ in "qk")
    v = torch.randn(*shape, value, **options)
    g = -fade * torch.rand(*shape, key, **options) ** 3
    beta = torch.rand(*shape, **options)
    return [q * key**-0.5, k, v, g, beta, torch.randn(2, 3, key, value, **options)]


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = (I - beta_t k_t k_t^T) Diag(alpha_t) S_(t-1) + beta_t k_t v_t^T, o_t = S_t^T q_t, as printed."""
    unit = torch.eye(q.shape[-1], dtype=q.dtype)
    outputs = []
    for t in range(q.shape[2]):
        key, rate = k[:, :, t, :, None], beta[:, :, t, None, None]
        decayed = torch.diag_embed(g[:, :, t].exp()) @ state
        state = (unit - rate * key @ key.mT) @ decayed + rate * key @ v[:, :, t, None]
        outputs.append((state.mT @ q[:, :, t, :, None])[..., 0])
    return torch.stack(outputs, dim=2), state


def both(form: Callable[..., Any], given_: list[Tensor], dtype: torch.dtype) -> list[list[Tensor]]:
    """Outputs, last states and gradients of a form in `dtype` and of the recurrence in double precision."""
    weights = torch.randn(given_[2].shape, dtype=torch.float64)
    results = []
    for rule, precision in ((form, dtype), (recurrence, torch.float64)):
        leaves = [tensor.detach().to(precision).requires_grad_() for tensor in given_]
        y, last = rule(*leaves)
        loss = (y * weights.to(precision)).sum() + last.square().sum()
        results.append([tensor.double() for tensor in (y, last, *torch.autograd.grad(loss, leaves))])
    return results


@every_form
@pytest.mark.parametrize("length", [1, 2, 8, 9, 31, 32, 33, 65, 130])
def test_values_and_gradients_equal_the_printed_recurrence(form: Callable[..., Any], length: int) -> None:
    for ours, theirs in zip(*both(form, inputs(length), torch.float64), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@every_form
@pytest.mark.parametrize("fade", [0.1, 5.0, 100.0, 2000.0])
def test_float32_is_exact_for_weak_and_strong_decays(form: Callable[..., Any], fade: float) -> None:
    """Running sums of such logarithms lose the small ones, and their exponentials overflow."""
    given_ = inputs(100, fade=fade)
    for ours, theirs in zip(*both(form, given_, torch.float32), strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@every_form
def test_a_weak_decay_after_a_vanishing_one_keeps_its_digits(form: Callable[..., Any]) -> None:
    """exp(-0.01) as the quotient of two decays of e^-10000 would be 0 / 0, and as a difference 1 % off."""
    given_ = inputs(64, fade=0.02)
    given_[3][:, :, 3, ::2] = -1e4
    for ours, theirs in zip(*both(form, given_, torch.float32), strict=True):
        assert (ours - theirs).norm() < 1e-6 * theirs.norm()


@every_form
@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_the_same_key_over_and_over_stays_exact(form: Callable[..., Any], beta: float, noise: float) -> None:
    """Powers of the matrix to be inverted reach 1e18 in a chunk. Beta 2 forgets no rounding."""
    q, k, v, g, rates, state = inputs(200, fade=0.0)
    k = F.normalize(k[:, :, :1] + noise * k, dim=-1)
    given_ = [q, k, v, g, torch.full_like(rates, beta), state]
    exact = recurrence(*given_)
    ours = form(*(tensor.float() for tensor in given_))
    limit = 1e-6 if beta == 1 else 5e-5
    for mine, theirs in zip(ours, exact, strict=True):
        assert (mine - theirs).norm() < limit * theirs.norm()


@given(length=st.integers(1, 100), chunk=st.sampled_from([1, 2, 4, 8, 16, 64]))
def test_any_chunk_gives_the_same(length: int, chunk: int) -> None:
    given_ = inputs(length)
    for ours, theirs in zip(chunkwise(*given_, chunk=chunk), token_by_token(*given_), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_equal_decays_of_all_channels_are_gated_deltanet() -> None:
    q, k, v, g, beta, state = inputs(70)
    g = g[..., :1]
    ours = chunkwise(q, k, v, g.expand_as(k), beta, state)
    torch.testing.assert_close(ours, chunks_of_one_decay(q, k, v, g[..., 0], beta, state))


@pytest.mark.parametrize("length", [1, 70])
def test_autocast_leaves_the_rule_alone(length: int) -> None:
    given_ = [tensor.float() for tensor in inputs(length)]
    plain = channel_rule(*given_)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = channel_rule(*given_)
    assert cast[0].dtype == cast[1].dtype == torch.float32
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)


def make(**options: Any) -> KimiDeltaAttention:
    """A layer of dense projections, every parameter off its start."""
    mixer = build(architecture("D", mixers={"D": options}, num_layers=1), spread=0.2).layers[0].mixer
    assert isinstance(mixer, KimiDeltaAttention)
    return mixer.double()


def layer(mixer: KimiDeltaAttention, x: Tensor) -> Tensor:
    """The whole layer as the paper writes it, with loops over tokens in place of convolution and chunks."""
    sizes = mixer.sizes
    state = dict(mixer.named_parameters())
    qkv = torch.cat([x @ state[f"{name}.weight"].T for name in "qkv"], dim=-1)
    if sizes.conv:
        taps = state["conv"][:, 0]
        padded = torch.cat((qkv.new_zeros(len(x), sizes.conv - 1, sizes.channels), qkv), dim=1)
        rows = [
            (padded[:, t : t + sizes.conv] * taps.T).sum(1) for t in range(x.shape[1])
        ]  # the last tap is the token itself
        qkv = torch.stack(rows, dim=1)
    keys = sizes.heads * sizes.key
    q, k, v = (
        part.unflatten(-1, (sizes.heads, -1)).transpose(1, 2)
        for part in F.silu(qkv).split((keys, keys, sizes.heads * sizes.value), dim=-1)
    )

    def low_rank(name: str) -> Tensor:
        return x @ state[f"{name}.encoder.weight"].T @ state[f"{name}.decoder.weight"].T

    step = F.softplus(low_rank("decay") + state["dt_bias"]).unflatten(-1, (sizes.heads, -1))
    g = -(state["A_log"].exp()[:, None] * step).transpose(1, 2)
    beta = (x @ state["beta.weight"].T).sigmoid().transpose(1, 2)
    beta = 2 * beta if sizes.negative_eigenvalues else beta
    q, k = (y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
    empty = x.new_zeros(len(x), sizes.heads, sizes.key, sizes.value)
    y = recurrence(q * sizes.key**-0.5, k, v, g, beta, empty)[0].transpose(1, 2)
    y = y / (y.square().mean(-1, keepdim=True) + mixer.norm_eps).sqrt() * state["norm.weight"]
    y = y.flatten(2)
    if sizes.gate:
        y = y * low_rank("output_gate").sigmoid()
    return y @ state["o.weight"].T


@pytest.mark.parametrize(
    "options",
    [
        {}, {"expand_v": 1.5, "heads": 2, "negative_eigenvalues": True},
        {"conv_size": 0, "gate": False, "norm_eps": 1e-3}, {"key_ratio": 2.0, "conv_size": 2},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("length", [5, 70])
def test_the_layer_equals_the_papers(options: dict[str, Any], length: int) -> None:
    mixer = make(**options)
    x = torch.randn(2, length, 24, dtype=torch.float64)
    torch.testing.assert_close(mixer(x, context()), layer(mixer, x), rtol=1e-9, atol=1e-9)


def test_the_start() -> None:
    """exp(A_log) is uniform from 1 to 16, and steps are log-uniform from 0.001 to 0.1."""
    torch.manual_seed(0)
    mixer = make(heads=256, key_ratio=4.0)
    mixer.reset_parameters()
    rate, step = mixer.A_log.exp(), F.softplus(mixer.dt_bias)
    assert mixer.A_log.shape == (256,)
    assert mixer.dt_bias.shape == (256 * 8,)
    assert 1 <= rate.min() < 1.5
    assert 15 < rate.max() <= 16
    assert 7.6 < rate.mean() < 9.4  # 3.3 standard errors
    assert 1e-3 * 0.999 <= step.min() < 1.1e-3
    assert 0.09 < step.max() <= 0.1001
    assert abs(step.log().mean().exp() - 1e-2) < 1e-3


def test_the_fused_norm_and_a_hooked_one_are_the_same() -> None:
    mixer, x = make(), torch.randn(1, 9, 24, dtype=torch.float64)
    plain = mixer(x, context())
    mixer.norm.register_forward_hook(lambda module, given, out: None)
    torch.testing.assert_close(mixer(x, context()), plain)


@given(data=st.data())
def test_no_other_key_size_matches_attention_better(data: st.DataObject) -> None:
    heads = data.draw(st.integers(1, 12))
    backbone = read_backbone({
        "vocab_size": 5, "num_layers": 1, "ffn_dim": 8, "dim": data.draw(st.integers(1, 400)),
        "num_heads": heads, "head_dim": 2 * data.draw(st.integers(1, 64)),
    })  # fmt: skip
    options = DEFAULTS | {
        "expand_v": data.draw(st.floats(0.25, 4)), "heads": data.draw(st.integers(0, 20)),
        "gate": data.draw(st.booleans()),
    }  # fmt: skip
    ours = resolve(backbone, options)
    target = sum(d_in * d_out for d_in, d_out in attention_projections(backbone).values())
    for key in range(8, 1600, 8):
        other = resolve(backbone, {**options, "key_ratio": key * ours.heads / backbone.dim})
        assert other.key == key
        assert abs(other.matrices - target) >= abs(ours.matrices - target)


def test_published_sizes() -> None:
    """Kimi Linear 48B: 32 heads of 128 at width 2304. LT2 1.3B: 16 heads of 128, values of 192."""
    base = {"vocab_size": 5, "num_layers": 1, "ffn_dim": 8, "head_dim": 128}
    kimi = read_backbone({**base, "dim": 2304, "num_heads": 32})
    sizes = resolve(kimi, DEFAULTS | {"key_ratio": 4096 / 2304})
    assert (sizes.heads, sizes.key, sizes.value, sizes.rank) == (32, 128, 128, 128)
    low_rank = 2 * (2304 * 128 + 128 * 4096)
    assert sizes.matrices == 4 * 2304 * 4096 + low_rank + 2304 * 32
    lt2 = read_backbone({**base, "dim": 2048, "num_heads": 16})
    sizes = resolve(lt2, DEFAULTS | {"key_ratio": 1.0, "expand_v": 1.5})
    assert (sizes.key, sizes.value, sizes.rank) == (128, 192, 192)


@pytest.mark.parametrize("dim", [24, 512])
def test_canonical_options_are_allowed_stable_and_one_for_each_model(dim: int) -> None:
    backbone = read_backbone(
        {"vocab_size": 5, "num_layers": 1, "ffn_dim": 8, "dim": dim, "num_heads": 4, "head_dim": dim // 4}
    )
    spelled: dict[Any, dict[str, Any]] = {}
    for options in option_sets(SPEC.options)[::7]:
        canonical = SPEC.canonical(backbone, options)
        for name, value in canonical.items():
            assert SPEC.options[name].read(value) == value
        model = resolve(backbone, options)
        assert resolve(backbone, canonical | {"norm_eps": 0}) == model
        assert SPEC.canonical(backbone, canonical) == canonical
        own_eps = options["norm_eps"] if options["norm_eps"] not in (0, backbone.norm_eps) else None
        assert spelled.setdefault((model, own_eps), canonical) == canonical
    assert SPEC.canonical(backbone, DEFAULTS)["key_ratio"] == 0.0
    assert len({model for model, _ in spelled}) > 20


def test_every_map_learns_after_a_start_from_attention() -> None:
    """The maps to decay and gate start with a zero, but not with two in a row."""
    arch = architecture("FD", num_layers=2, head_dim=8)
    old, new = (block.mixer for block in build(arch, spread=0.2).layers)
    text = [
        (torch.randn(1, 40, 24), Context(rotary_tables(arch.backbone, torch.arange(40)[None])))
        for _ in range(3)
    ]
    transplant(new, old, text)
    step = F.softplus(new.dt_bias).unflatten(0, (4, -1))
    assert (step == step[:, :1]).all()  # a rate for each head
    assert not new.A_log.any()
    optimizer = torch.optim.SGD(new.parameters(), lr=1e-2)
    for _ in range(2):  # the encoder of a map that starts at zero learns from the second step on
        optimizer.zero_grad()
        sum(new(x, where).square().sum() for x, where in text).backward()
        optimizer.step()
    for name, parameter in new.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
