"""Gaussian-kernel attention against its formula: every distance, every weight, in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surgery.config.problems import UserError
from surgery.context import Context
from surgery.mixers.gaussian.module import GaussianAttention
from surgery.ops.rotary import rotary_tables, rotate
from tests.models import architecture, build


def direct(module: GaussianAttention, x: Tensor, rotary: Any, options: dict[str, Any]) -> Tensor:
    """W_ij = exp(-|q_i - k_j|^2 / (2 sigma^2)) over its row sum, every distance taken by itself."""

    def heads(y: Tensor) -> Tensor:
        y = y.unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        return y / y.square().mean(-1, keepdim=True).sqrt() if options["norm"] else y

    plain = heads(x)
    if options["keep"] == "qk":
        q, k, v = rotate(heads(module.q(x)), rotary), rotate(heads(module.k(x)), rotary), plain
    else:
        q = k = rotate(plain, rotary)
        v = k if options["value"] == "rotated" else plain
    distance = torch.cdist(q, k, compute_mode="donot_use_mm_for_euclid_dist")
    kernel = torch.exp(-distance.square() / (2 * module.log_sigma.exp()[:, None, None] ** 2))
    position = torch.arange(x.shape[1])
    allowed = position[:, None] >= position[None]
    if options["window"]:
        allowed &= position[:, None] - position[None] < options["window"]
    kernel = kernel * allowed
    mixed = (kernel / kernel.sum(-1, keepdim=True)) @ v
    y: Tensor = module.o(mixed.transpose(1, 2).flatten(2))
    return y


@given(
    length=st.integers(1, 90),
    keep=st.sampled_from(["none", "qk"]),
    value=st.sampled_from(["rotated", "plain"]),
    norm=st.booleans(),
    window=st.sampled_from([0, 1, 7, 30]),
)
def test_the_kernel_is_the_direct_formula(
    length: int, keep: str, value: str, norm: bool, window: int
) -> None:
    options = {"keep": keep, "value": value, "norm": norm, "window": window}
    torch.manual_seed(length)
    model = build(architecture("K", mixers={"K": options}, num_layers=1), spread=0.3).double()
    module = model.layers[0].mixer
    x = torch.randn(2, length, 24, dtype=torch.float64, requires_grad=True)
    cos, sin = rotary_tables(model.architecture.backbone, torch.arange(length)[None])
    angle = torch.atan2(sin.double(), cos.double())
    rotary = (angle.cos(), angle.sin())  # float32 tables turn a token longer or shorter by 1e-7
    result, wanted = module(x, Context(rotary)), direct(module, x, rotary, options)
    torch.testing.assert_close(result, wanted)
    weights = torch.randn_like(result)
    inputs = [x, *module.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad((result * weights).sum(), inputs),
        torch.autograd.grad((wanted * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_no_projection_but_the_output() -> None:
    mixer = build(architecture("K", num_layers=1)).layers[0].mixer
    assert {name for name, _ in mixer.named_parameters()} == {"o.weight", "log_sigma"}


def test_a_token_outweighs_a_random_one_by_e_to_the_four_at_the_start() -> None:
    from surgery.model import HybridLM

    module = HybridLM(architecture("K", num_layers=1)).layers[0].mixer
    random = module.head_dim * torch.exp(-2 * module.log_sigma)  # x.x / s2 - 0
    torch.testing.assert_close(random, torch.full_like(random, 4.0))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError) as caught:
        architecture("FK", head_dim=10)
    assert "mixers.K.keep" in str(caught.value.problems[0].field)
    assert "dim (24) to be a multiple of head_dim (10)" in caught.value.problems[0].rule
