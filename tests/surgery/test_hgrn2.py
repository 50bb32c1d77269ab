"""HGRN2 against the recurrence that its paper prints, in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.context import DecodeCache
from surgery.mixers.hgrn2.module import HGRN2, forget_gate
from tests.models import architecture, build, context


def make(**options: Any) -> HGRN2:
    """A layer of dense projections, every parameter off its start."""
    arch = architecture("H", mixers={"H": options}, num_layers=1, dim=32, num_heads=4, head_dim=8)
    mixer = build(arch, spread=0.2).layers[0].mixer
    assert isinstance(mixer, HGRN2)
    return mixer.double()


def printed(mixer: HGRN2, x: Tensor, lower_bound: float) -> Tensor:
    """h_t = h_(t-1) Diag(f_t) + i_t (1 - f_t)^T and y_t = h_t o_t for each head, then norm and output map."""
    sizes = mixer.sizes
    o, f, i = (x @ m.weight.T for m in (mixer.q, mixer.k, mixer.v))
    o = o * o.sigmoid()
    f = lower_bound + (1 - lower_bound) * f.sigmoid()
    heads = []
    for h in range(sizes.heads):
        keys, values = (slice(h * width, (h + 1) * width) for width in (sizes.key, sizes.value))
        state = x.new_zeros(len(x), sizes.value, sizes.key)
        rows = []
        for t in range(x.shape[1]):
            forget = f[:, t, keys]
            state = state * forget[:, None] + i[:, t, values, None] * (1 - forget)[:, None]
            rows.append((state @ o[:, t, keys, None])[..., 0])
        heads.append(torch.stack(rows, dim=1))
    y = torch.cat(heads, dim=-1)
    y = y / (y.square().mean(-1, keepdim=True) + mixer.norm.eps).sqrt() * mixer.norm.weight
    return y @ mixer.o.weight.T


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["usual gates", "gates of 0 and 1"])
@pytest.mark.parametrize("options", [{}, {"lower_bound": 0.9, "heads": 2, "expand_v": 2.0}], ids=str)
@pytest.mark.parametrize("length", [1, 9, 40])
def test_a_layer_equals_the_printed_one(options: dict[str, Any], length: int, scale: float) -> None:
    mixer = make(**options)
    with torch.no_grad():
        mixer.k.weight.mul_(scale)
    x = torch.randn(2, length, 32, dtype=torch.float64, requires_grad=True)
    ours, expected = mixer(x, context()), printed(mixer, x, options.get("lower_bound", 0.0))
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-8)
    weights = torch.randn_like(ours)
    wanted = [x, *mixer.parameters()]
    results = (torch.autograd.grad((y * weights).sum(), wanted) for y in (ours, expected))
    for mine, other in zip(*results, strict=True):
        assert (mine - other).norm() < 1e-6 * other.norm() + 1e-9


@pytest.mark.parametrize("lower_bound", [0.0, 0.5])
def test_gates_are_exact_where_float32_would_round_one_of_them_to_0(lower_bound: float) -> None:
    x = torch.linspace(-40, 40, 81)
    k, g = forget_gate(x, lower_bound)
    exact = (1 - lower_bound) * (-x.double()).sigmoid()
    f = lower_bound + (1 - lower_bound) * x.double().sigmoid()
    expected = torch.where(x > 0, torch.log1p(-exact), f.log())
    torch.testing.assert_close(g.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(k.double(), exact, rtol=1e-5, atol=0)
    assert (g <= 0).all()


def test_left_padding_equals_a_shorter_sequence_to_the_last_state() -> None:
    mixer = make()
    x = torch.randn(1, 20, 32, dtype=torch.float64)
    padded, alone = DecodeCache(), DecodeCache()
    y = mixer(x, context(padding=torch.arange(20)[None] >= 11, cache=padded))
    expected = mixer(x[:, 11:], context(cache=alone))
    torch.testing.assert_close(y[:, 11:], expected)
    torch.testing.assert_close(padded.states[0, 0], alone.states[0, 0])


def test_what_is_kept_is_one_state_in_float32() -> None:
    cache = DecodeCache()
    mixer = make().bfloat16()
    for length in (12, 1):
        mixer(torch.randn(2, length, 32, dtype=torch.bfloat16), context(cache=cache))
        (state,) = cache.states[0, 0]
        assert (state.dtype, state.shape) == (torch.float32, (2, 4, mixer.sizes.key, mixer.sizes.value))
        assert state.untyped_storage().nbytes() == state.numel() * state.element_size()
