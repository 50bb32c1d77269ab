"""Retention against the parallel form that its paper prints, in double precision and with complex numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.context import Context, DecodeCache
from surgery.mixers.retnet.module import Retention
from surgery.ops.rotary import rotary_tables
from tests.models import architecture, build

PLAIN = {"dim": 32, "num_heads": 4, "head_dim": 8, "num_kv_heads": 4, "rope_theta": 10000.0}


def make(backbone: dict[str, Any] | None = None, **options: Any) -> Retention:
    """A layer of dense projections, every parameter off its start."""
    arch = architecture("R", mixers={"R": options}, num_layers=1, **PLAIN | (backbone or {}))
    mixer = build(arch, spread=0.2).layers[0].mixer
    assert isinstance(mixer, Retention)
    return mixer.double()


def positions(length: int, start: int = 0, **fields: Any) -> Context:
    backbone = architecture("R", **PLAIN).backbone
    cos, sin = rotary_tables(backbone, torch.arange(start, start + length)[None])
    return Context((cos.double(), sin.double()), seen=start, **fields)


def printed(mixer: Retention, x: Tensor, *, normalised: bool) -> Tensor:
    """MSR of section 2.2: (Q K^T * D) V for each head with Q = X W_Q e^(i n theta) and its conjugate for K, a
    norm for each head, and the swish gate. `normalised`: with the three divisions of its last paragraph."""
    sizes, length = mixer.sizes, x.shape[1]
    n = torch.arange(length, dtype=torch.float64)
    theta = 10000.0 ** (-2 * torch.arange(sizes.key // 2, dtype=torch.float64) / sizes.key)
    turn = torch.polar(torch.ones(length, len(theta), dtype=torch.float64), n[:, None] * theta)
    heads = []
    for h in range(sizes.heads):
        keys, values = (slice(h * width, (h + 1) * width) for width in (sizes.key, sizes.value))
        q, k = ((x @ m.weight[keys].T).unflatten(-1, (2, -1)).transpose(-1, -2) for m in (mixer.q, mixer.k))
        q, k = (torch.view_as_complex(part.contiguous()) * turn for part in (q, k))
        gamma = 1 - 2.0 ** (-5 - h)
        decay = torch.tril(gamma ** (n[:, None] - n))
        scores = (q @ k.conj().mT).real
        if normalised:
            scores = scores * sizes.key**-0.5 * (decay / decay.sum(-1, keepdim=True).sqrt())
            scores = scores / scores.sum(-1, keepdim=True).abs().clamp(min=1)
        else:
            scores = scores * decay
        y = scores @ (x @ mixer.v.weight[values].T)
        heads.append(y / y.square().mean(-1, keepdim=True).sqrt() * mixer.norm.weight)
    gate = x @ mixer.output_gate.weight.T if mixer.output_gate is not None else None
    both = torch.cat(heads, dim=-1)
    return (both if gate is None else both * gate * gate.sigmoid()) @ mixer.o.weight.T


@pytest.mark.parametrize(
    "options", [{"key_ratio": 1.0}, {"key_ratio": 1.0, "expand_v": 0.5, "heads": 2, "gate": False}], ids=str
)
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("length", [1, 9, 70])
def test_a_layer_equals_the_printed_one(options: dict[str, Any], normalised: bool, length: int) -> None:
    """The divisions of the paper cancel in the norm of a head, so that there are none here."""
    mixer = make({"norm_eps": 1e-12, "head_dim": 32 // options.get("heads", 4)}, **options)
    mixer.norm_eps = mixer.norm.eps = 1e-24
    x = torch.randn(2, length, 32, dtype=torch.float64, requires_grad=True)
    backbone = architecture("R", **PLAIN | {"head_dim": mixer.sizes.rotary}).backbone
    cos, sin = rotary_tables(backbone, torch.arange(length)[None])
    ours = mixer(x, Context((cos.double(), sin.double())))
    expected = printed(mixer, x, normalised=normalised)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)  # angles are float32
    weights = torch.randn_like(ours)
    wanted = [x, *(parameter for parameter in mixer.parameters())]
    results = (torch.autograd.grad((y * weights).sum(), wanted) for y in (ours, expected))
    for mine, other in zip(*results, strict=True):
        assert (mine - other).norm() < 1e-4 * other.norm() + 1e-9  # 0 for q and k of a single token


def test_narrower_keys_have_the_angles_of_their_width() -> None:
    """Every second angle of width 16 is that of width 8."""
    mixer = make({"head_dim": 16}, key_ratio=1.0)
    assert (mixer.sizes.key, mixer.sizes.rotary) == (8, 16)
    cos, sin = rotary_tables(architecture("R", **PLAIN | {"head_dim": 16}).backbone, torch.arange(40)[None])
    expected = rotary_tables(architecture("R", **PLAIN).backbone, torch.arange(40)[None])
    torch.testing.assert_close((mixer._angles(cos), mixer._angles(sin)), expected)


def test_left_padding_equals_a_shorter_sequence_to_the_last_state() -> None:
    mixer = make({"biases": ["q", "k", "v", "o"]})  # padding is not zero behind a bias
    x = torch.randn(1, 20, 32, dtype=torch.float64)
    padded, alone = DecodeCache(), DecodeCache()
    rows = torch.arange(20)[None]
    whole = positions(20)
    padding = Context(tuple(table.roll(9, 1) for table in whole.rotary), padding=rows >= 9, cache=padded)
    y = mixer(x, padding)
    expected = mixer(x[:, 9:], positions(11, cache=alone))
    torch.testing.assert_close(y[:, 9:], expected)
    torch.testing.assert_close(padded.states[0, 0], alone.states[0, 0])


def test_what_is_kept_is_one_state_in_float32() -> None:
    for cast, kept in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        cache = DecodeCache()
        mixer = make().to(cast)
        for start, length in ((0, 12), (12, 1)):
            mixer(torch.randn(2, length, 32, dtype=cast), positions(length, start, cache=cache))
            (state,) = cache.states[0, 0]
            assert state.dtype == kept
            assert state.shape == (2, 4, mixer.sizes.key, mixer.sizes.value)
            assert state.untyped_storage().nbytes() == state.numel() * state.element_size()


def test_heads_fade_as_in_the_paper() -> None:
    from surgery.mixers.retnet.module import log_decays

    decays = log_decays(40, torch.zeros(0)).double().exp()
    expected = 1 - 2.0 ** (-5 - torch.arange(40, dtype=torch.float64))
    torch.testing.assert_close(decays, expected, rtol=1e-8, atol=0)
