"""Full attention against softmax written out, in double precision, with gradients."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.context import Context, DecodeCache
from surgery.mixers.full.module import SoftmaxAttention
from surgery.ops.rotary import rotary_tables
from tests.models import architecture, build, decode


def slow_attention(module: SoftmaxAttention, x: Tensor, theta: float, eps: float) -> Tensor:
    """One query and one head at a time; rotations as complex numbers."""
    _, length, _ = x.shape
    width = module.head_dim
    half = width // 2
    steps = torch.arange(half) * 2 / width
    angles = (torch.arange(length)[:, None] * (1 / theta**steps)).to(x.dtype)  # float32, as everywhere
    turn = torch.polar(torch.ones_like(angles), angles)

    def heads(projection: Any) -> Tensor:
        flat = x @ projection.weight.T
        flat = flat if projection.bias is None else flat + projection.bias
        return flat.unflatten(-1, (-1, width))

    def normed(y: Tensor, norm: Any) -> Tensor:
        weight = getattr(norm, "weight", None)
        return y if weight is None else weight * y / (y.square().mean(-1, keepdim=True) + eps).sqrt()

    def rotated(y: Tensor) -> Tensor:
        turned = torch.complex(y[..., :half], y[..., half:]) * turn[:, None]
        return torch.cat((turned.real, turned.imag), dim=-1)

    q = rotated(normed(heads(module.q), module.q_norm))
    k = rotated(normed(heads(module.k), module.k_norm))
    v = heads(module.v)
    group = q.shape[2] // k.shape[2]
    rows = []
    for t in range(length):
        mixed = []
        for head in range(q.shape[2]):
            scores = (k[:, : t + 1, head // group] * q[:, t, None, head]).sum(-1) / width**0.5
            weights = (scores - scores.amax(-1, keepdim=True)).exp()
            weights = weights / weights.sum(-1, keepdim=True)
            mixed.append((weights[..., None] * v[:, : t + 1, head // group]).sum(1))
        rows.append(torch.cat(mixed, dim=-1))
    y = torch.stack(rows, dim=1) @ module.o.weight.T
    return y if module.o.bias is None else y + module.o.bias


@pytest.mark.parametrize("length", [1, 2, 9, 33])
@pytest.mark.parametrize(
    "backbone",
    [
        {"num_kv_heads": 4}, {"num_kv_heads": 2}, {"num_kv_heads": 1, "qk_norm": True},
        {"num_heads": 3, "num_kv_heads": 3, "head_dim": 10, "biases": ["q", "k", "v", "o"],
        "rope_theta": 100},
    ],
)  # fmt: skip
def test_equals_softmax_written_out(length: int, backbone: dict[str, Any]) -> None:
    model = build(architecture(num_layers=1, **backbone), spread=0.3).double()
    module, sizes = model.layers[0].mixer, model.architecture.backbone
    x = torch.randn(2, length, 24, dtype=torch.float64, requires_grad=True)
    parameters = list(module.parameters())
    y = module(x, Context(rotary_tables(sizes, torch.arange(length)[None])))
    slow = slow_attention(module, x, sizes.rope_theta, sizes.norm_eps)
    torch.testing.assert_close(y, slow, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(y)
    fast_gradients = torch.autograd.grad((y * weight).sum(), [x, *parameters])
    slow_gradients = torch.autograd.grad((slow * weight).sum(), [x, *parameters])
    for fast, expected in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(fast, expected, rtol=1e-5, atol=1e-5)


def test_autocast_keeps_keys_and_values_in_one_low_precision() -> None:
    model = build(architecture(num_layers=1, qk_norm=True))
    cache = DecodeCache()
    with torch.autocast("cpu", dtype=torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error")  # a norm of two dtypes warns that it is not fused
        decode(model, torch.randint(37, (1, 5)), [4, 1], cache)
    assert {tensor.dtype for state in cache.states.values() for tensor in state} == {torch.bfloat16}
