"""Mamba-2 against transformers' own layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.mamba2.configuration_mamba2 import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from surgery.context import DecodeCache
from surgery.mixers import MIXERS
from surgery.mixers.mamba2.module import Mamba2
from surgery.mixers.mamba2.sizes import resolve
from surgery.mixers.softmax import attention_projections
from tests.models import architecture, build, context
from tests.strategies import option_sets, read_backbone

SPEC = MIXERS["M"]
DEFAULTS = {name: option.default for name, option in SPEC.options.items()}


def make(**options: Any) -> Mamba2:
    """A layer of dense projections, every parameter off its start."""
    arch = architecture("M", mixers={"M": options}, num_layers=1, dim=32, num_heads=4, head_dim=8)
    mixer = build(arch, spread=0.2).layers[0].mixer
    assert isinstance(mixer, Mamba2)
    return mixer


def transformers_layer(mixer: Mamba2) -> Mamba2Mixer:
    """Their layer with our weights: one map to gate, x, B, C and steps, and a convolution over x, B and C."""
    sizes = mixer.sizes
    config = Mamba2Config(
        num_heads=sizes.heads, head_dim=sizes.value, hidden_size=sizes.dim, state_size=sizes.key,
        expand=sizes.inner // sizes.dim, conv_kernel=sizes.conv, n_groups=sizes.groups,
        layer_norm_epsilon=mixer.norm.eps, num_hidden_layers=1, chunk_size=16,
    )  # fmt: skip
    theirs = Mamba2Mixer(config, 0).eval()
    assert mixer.conv is not None
    assert mixer.conv_bias is not None

    def ordered(x: Tensor) -> Tensor:
        q, k, v = x.split((sizes.groups * sizes.key, sizes.groups * sizes.key, sizes.inner))
        return torch.cat((v, k, q))

    maps = (mixer.output_gate, mixer.v, mixer.k, mixer.q, mixer.step)
    weights = {
        "in_proj.weight": torch.cat([one.weight for one in maps]),
        "conv1d.weight": ordered(mixer.conv), "conv1d.bias": ordered(mixer.conv_bias),
        "A_log": mixer.A_log, "dt_bias": mixer.dt_bias, "D": mixer.D,
        "norm.weight": mixer.norm.weight, "out_proj.weight": mixer.o.weight,
    }  # fmt: skip
    theirs.load_state_dict(weights)
    return theirs


@pytest.mark.parametrize("length", [1, 5, 9, 32, 50])
@pytest.mark.parametrize(
    "options",
    [{"expand": 2.0, "state_size": 16}, {"expand": 2.0, "groups": 2, "state_size": 8, "conv_size": 2}],
    ids=str,
)
def test_a_layer_equals_that_of_transformers(options: dict[str, Any], length: int) -> None:
    mixer = make(**options)
    theirs = transformers_layer(mixer)
    x = torch.randn(2, length, 32, requires_grad=True)
    ours, expected = mixer(x, context()), theirs(x)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(ours)
    pairs = [(mixer.o.weight, theirs.out_proj.weight), (x, x), (mixer.norm.weight, theirs.norm.weight)]
    pairs += [(getattr(mixer, name), getattr(theirs, name)) for name in ("A_log", "dt_bias", "D")]
    for one, two in pairs:
        (mine,) = torch.autograd.grad((ours * weights).sum(), one, retain_graph=True)
        (other,) = torch.autograd.grad((expected * weights).sum(), two, retain_graph=True)
        assert (mine - other).norm() < 1e-4 * other.norm() + 1e-5


def test_states_that_vanish_at_once_stay_exact() -> None:
    """Steps of 50 at rates up to 16: exp(-800), beside heads that hardly fade."""
    mixer = make(expand=2.0, state_size=16)
    with torch.no_grad():
        mixer.dt_bias[::2] += 50
        mixer.A_log[1::2] -= 8
    x = torch.randn(2, 40, 32)
    y = mixer(x, context())
    torch.testing.assert_close(y, transformers_layer(mixer)(x), rtol=1e-5, atol=1e-5)
    y.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())  # type: ignore[arg-type]


@pytest.mark.parametrize("conv_size", [0, 4])
def test_left_padding_equals_a_shorter_sequence_to_the_last_state(conv_size: int) -> None:
    """The convolution's bias alone would make padding write."""
    mixer = make(conv_size=conv_size)
    x = torch.randn(1, 20, 32)
    padded, alone = DecodeCache(), DecodeCache()
    y = mixer(x, context(padding=torch.arange(20)[None] >= 11, cache=padded))
    expected = mixer(x[:, 11:], context(cache=alone))
    torch.testing.assert_close(y[:, 11:], expected, rtol=1e-5, atol=1e-5)
    for one, two in zip(padded.states[0, 0], alone.states[0, 0], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_what_is_kept_has_its_dtypes_and_holds_on_to_nothing_else() -> None:
    cache = DecodeCache()
    mixer = make(state_size=16).bfloat16()
    for length in (30, 1):
        mixer(torch.randn(2, length, 32, dtype=torch.bfloat16), context(cache=cache))
        assert [kept.dtype for kept in cache.states[0, 0]] == [torch.bfloat16, torch.float32]
        for kept in cache.states[0, 0]:
            assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


def test_starts_as_the_paper_does() -> None:
    arch = architecture("M", dim=400, num_heads=200, num_kv_heads=200, head_dim=2, num_layers=1)
    mixer = MIXERS["M"].build(arch.backbone, DEFAULTS, lambda name: torch.nn.Identity())
    assert isinstance(mixer, Mamba2)
    rate, step = mixer.A_log.exp(), torch.nn.functional.softplus(mixer.dt_bias)
    assert 1 <= rate.min() < 1.5
    assert 15 < rate.max() <= 16
    assert 1e-3 * 0.999 <= step.min() < 1.5e-3
    assert 0.08 < step.max() <= 0.1001
    assert (mixer.D == 1).all()


def test_the_papers_sizes_and_those_that_match_attention() -> None:
    """Expand 2: 6 dim^2 weights and thin maps to B, C and the steps, of heads of 64 channels."""
    sizes = {"vocab_size": 5, "num_layers": 1, "ffn_dim": 8, "dim": 1024, "num_heads": 16, "head_dim": 64}
    backbone = read_backbone(sizes)
    paper = resolve(backbone, DEFAULTS | {"expand": 2.0})
    assert (paper.heads, paper.key, paper.value) == (32, 64, 64)
    assert paper.matrices == 6 * 1024**2 + 1024 * (2 * 64 + 32)
    target = sum(d_in * d_out for d_in, d_out in attention_projections(backbone).values())
    missed = abs(resolve(backbone, DEFAULTS).matrices - target)
    assert missed < 0.03 * target
    for heads in range(1, 64):
        other = resolve(backbone, DEFAULTS | {"expand": heads * 64 / 1024})
        assert (other.heads, abs(other.matrices - target) >= missed) == (heads, True)


@pytest.mark.parametrize("dim", [1, 24, 512])
def test_canonical_options_are_allowed_stable_and_one_for_each_model(dim: int) -> None:
    backbone = read_backbone(
        {"vocab_size": 5, "num_layers": 1, "ffn_dim": 8, "dim": dim, "num_heads": 4, "head_dim": 6}
    )
    spelled: dict[Any, dict[str, Any]] = {}
    for options in option_sets(SPEC.options):
        canonical = SPEC.canonical(backbone, options)
        assert canonical.keys() == options.keys()
        for name, value in canonical.items():
            assert SPEC.options[name].read(value) == value
        sizes = resolve(backbone, options)
        assert resolve(backbone, canonical) == sizes
        assert SPEC.canonical(backbone, canonical) == canonical
        assert spelled.setdefault(sizes, canonical) == canonical
