"""Windowed attention, in blocks or not, against full attention under a mask written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from surgery.architecture.costs import cost
from surgery.context import Context, DecodeCache
from surgery.model import HybridLM
from surgery.ops.attention import _fits_flash, attend
from surgery.ops.sinks import with_sinks
from tests.models import architecture, build, decode


def contexts(length: int, seen: int = 0, padding: Tensor | None = None) -> Context:
    table = torch.zeros(1 if padding is None else padding.shape[0], length, 2)
    return Context((table, table), seen=seen, padding=padding)


def masked(q: Tensor, k: Tensor, v: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    """Full attention under a window's mask, the new tokens last; padding sees at least itself."""
    length, keys = q.shape[2], k.shape[2]
    distance = torch.arange(keys - length, keys)[:, None] - torch.arange(keys)[None]
    mask = ((distance >= 0) & (distance < window))[None, None]
    if padding is not None:
        mask = (mask & padding[:, None, None, :]) | (distance == 0)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


@given(st.integers(1, 150), st.integers(0, 150), st.integers(1, 200), st.booleans())
def test_a_window_is_masked_full_attention(length: int, past: int, window: int, padded: bool) -> None:
    past = min(past, 3 * length)
    keys = past + length
    q = torch.randn(2, 4, length, 6, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 2, keys, 6, dtype=torch.float64, requires_grad=True) for _ in "kv")
    padding = torch.arange(keys) >= torch.tensor([[keys // 2], [0]]) if padded else None
    result = attend(q, k, v, contexts(length, past, padding), window=window)
    wanted = masked(q, k, v, window, padding)
    torch.testing.assert_close(result, wanted)
    weights = torch.randn_like(result)
    for mine, theirs in zip(
        torch.autograd.grad((result * weights).sum(), (q, k, v)),
        torch.autograd.grad((wanted * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("length", "window", "scale"), [(130, 2, None), (130, 64, 1.0), (1025, 100, None)])
def test_flash_attention_takes_the_window(length: int, window: int, scale: float | None) -> None:
    q, k, v = (torch.randn(2, 3, length, 32, device="cuda").bfloat16().requires_grad_() for _ in "qkv")
    assert _fits_flash(q, k, v, contexts(length))
    assert not _fits_flash(q, k, v, contexts(length, padding=torch.ones(2, length, dtype=torch.bool)))
    result = attend(q, k, v, contexts(length), window=window, scale=scale)
    exactly = [x.detach().double().requires_grad_() for x in (q, k, v)]
    distance = torch.arange(length)[:, None] - torch.arange(length)[None]
    mask = ((distance >= 0) & (distance < window)).cuda()
    wanted = F.scaled_dot_product_attention(*exactly, attn_mask=mask, scale=scale)
    weights = torch.randn_like(result)
    mine = [result, *torch.autograd.grad(result, (q, k, v), weights)]
    theirs = [wanted, *torch.autograd.grad(wanted, exactly, weights.double())]
    for one, other in zip(mine, theirs, strict=True):
        assert (one.double() - other).norm() <= 1e-2 * other.norm()


def test_a_window_no_shorter_than_the_text_is_full_attention() -> None:
    full = build(architecture("F", vocab_size=50))
    wide = HybridLM(architecture("W", vocab_size=50, mixers={"W": {"window": 90}})).eval()
    wide.load_state_dict(full.state_dict())
    tokens = torch.randint(50, (2, 90))
    with torch.no_grad():
        torch.testing.assert_close(wide(tokens), full(tokens), rtol=0, atol=0)


def test_work_grows_with_the_window_not_with_the_text() -> None:
    """FLOPs really done, not only announced."""

    def work(length: int, window: int | None) -> int:
        q, k, v = (torch.randn(1, 2, length, 8) for _ in "qkv")
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            attend(q, k, v, contexts(length), window=window)
        return int(counter.get_total_flops())

    assert work(4096, 128) == 2 * work(2048, 128)
    assert work(4096, 128) < work(4096, None) / 15


def with_first(q: Tensor, k: Tensor, v: Tensor, window: int, sinks: int, start: Tensor) -> Tensor:
    """Full attention under a mask; `start` is each row's first real token."""
    length = q.shape[2]
    rows, columns = torch.arange(length)[:, None], torch.arange(length)[None]
    inside = (columns <= rows) & (columns > rows - window)
    first = columns < start[:, None, None] + sinks
    real = columns >= start[:, None, None]
    mask = ((inside | (first & (columns <= rows))) & real) | (rows == columns)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=True)


@given(st.integers(1, 150), st.integers(1, 100), st.integers(1, 9), st.integers(0, 80))
def test_sinks_are_the_first_tokens_of_every_row(length: int, window: int, sinks: int, padding: int) -> None:
    q = torch.randn(2, 4, length, 6, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 2, length, 6, dtype=torch.float64, requires_grad=True) for _ in "kv")
    start = torch.tensor([0, min(padding, length - 1)])
    real = torch.arange(length) >= start[:, None] if padding else None
    context = contexts(length, padding=real)
    keys, values, first = with_sinks(context, window, sinks, k, v)
    output = attend(q, keys, values, context, window=window, sinks=first)
    wanted = with_first(q, k, v, window, sinks, start if padding else torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(output, wanted)
    weights = torch.randn_like(output)
    for mine, theirs in zip(
        torch.autograd.grad((output * weights).sum(), (q, k, v)),
        torch.autograd.grad((wanted * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("sizes", [[70], [1] * 70, [3, 1, 9, 30, 1, 26]])
@pytest.mark.parametrize(("window", "sinks"), [(1, 3), (5, 1), (12, 4), (60, 8), (90, 4)])
def test_the_cache_holds_a_window_and_the_sinks(window: int, sinks: int, sizes: list[int]) -> None:
    arch = architecture("W", num_kv_heads=1, mixers={"W": {"window": window, "sinks": sinks}})
    model = build(arch, spread=0.3)
    tokens = torch.randint(37, (2, 70))
    cache = DecodeCache()
    with torch.no_grad():
        whole = model(tokens)
        torch.testing.assert_close(decode(model, tokens, sizes, cache), whole, rtol=1e-4, atol=1e-4)
    assert cache.bytes == 2 * 2 * cost(arch, "cache_bytes@70")  # two sequences, float32 and not bfloat16
    assert cost(arch, "cache_bytes@70") == 2 * 2 * 2 * 6 * min(70, window - 1 + sinks)


def test_sinks_see_further_than_the_window() -> None:
    model = build(architecture("W", num_layers=1, mixers={"W": {"window": 4, "sinks": 2}}), spread=0.5)
    h = torch.randn(1, 30, 24, requires_grad=True)
    model(None, embeddings=h)[0, 20].square().sum().backward()
    assert h.grad is not None
    assert h.grad[0].abs().sum(-1).nonzero().flatten().tolist() == [0, 1, 17, 18, 19, 20]


def test_generation_with_sinks_is_the_same_without_a_cache() -> None:
    from surgery.hf.configuration import NasConfig
    from surgery.hf.modeling import NasForCausalLM

    arch = architecture("WF", mixers={"W": {"window": 6, "sinks": 3}}, vocab_size=50)
    model = NasForCausalLM.wrap(build(arch, spread=0.3), NasConfig(arch.to_dict(), pad_token_id=0)).eval()
    prompt = torch.randint(1, 50, (2, 9))
    prompt[0, :4] = 0
    settings = {"attention_mask": (prompt != 0).long(), "max_new_tokens": 30, "do_sample": False}
    cached, uncached = (model.generate(prompt, use_cache=flag, **settings) for flag in (True, False))
    assert torch.equal(cached, uncached)


@pytest.mark.slow
def test_a_compiled_block_with_sinks_has_the_same_gradients() -> None:
    from surgery.compiled import CompiledBlocks

    gradients = []
    tokens = torch.randint(37, (2, 40))
    model = build(architecture("W", mixers={"W": {"window": 6, "sinks": 3}}), spread=0.3).train()
    for run in (model.run_block, CompiledBlocks()):
        model.run_block = run
        model.zero_grad()
        model.loss(tokens, tokens)[0].backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_an_architecture_without_sinks_has_the_hash_it_always_had() -> None:
    plain = architecture("W", mixers={"W": {"window": 12}})
    assert architecture("W", mixers={"W": {"window": 12, "sinks": 0}}).hash == plain.hash == "76ffc8b92d"
    assert architecture("W", mixers={"W": {"window": 12, "sinks": 1}}).hash != plain.hash


def gated(**options: Any) -> HybridLM:
    return build(architecture("F", mixers={"F": {"gate": True, **options}}, num_layers=1), spread=0.3)


def test_the_gate_is_one_half_at_the_start_and_multiplies_the_heads() -> None:
    fresh = HybridLM(architecture("F", mixers={"F": {"gate": True}}))
    torch.nn.init.normal_(fresh.layers[0].mixer.o.weight)  # zero at the start would hide the heads
    plain = HybridLM(architecture("F"))
    plain.load_state_dict({k: v for k, v in fresh.state_dict().items() if "mixer.gate" not in k})
    x = torch.randn(1, 5, 24)
    context = contexts(5)
    context.rotary = (torch.ones(1, 5, 6), torch.zeros(1, 5, 6))
    mine, theirs = fresh.layers[0].mixer(x, context), plain.layers[0].mixer(x, context)
    torch.testing.assert_close(mine, 0.5 * theirs)

    mixer = gated().layers[0].mixer
    heads: list[Tensor] = []
    mixer.o.register_forward_pre_hook(lambda _, inputs: heads.append(inputs[0]))
    mixer(x, context)
    gates = torch.sigmoid(x @ mixer.gate.weight.T)
    with torch.no_grad():
        mixer.gate.weight.zero_()
    mixer(x, context)
    torch.testing.assert_close(heads[0], 2 * heads[1] * gates)


@pytest.mark.parametrize("layout", ["F", "W", "K"])
def test_each_pass_of_a_loop_has_its_own_window(layout: str) -> None:
    """With one layer, pass t sees windows[t] tokens; what a token can know is what the passes add up to."""
    arch = architecture(layout, num_layers=1, head_dim=6, loops=3, windows=[2, 4, 1])
    model = build(arch, spread=0.5)
    h = torch.randn(1, 30, 24, requires_grad=True)
    model(None, embeddings=h)[0, 20].square().sum().backward()
    assert h.grad is not None
    seen = h.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert seen == list(range(20 - (1 + 3 + 0), 21))


@pytest.mark.parametrize("layout", ["F", "W", "FK", "WF"])
def test_caches_of_passes_are_as_long_as_their_windows(layout: str) -> None:
    arch = architecture(layout, loops=4, windows=[3, 8, 20, "full"], mixers={"W": {"window": 12}})
    model = build(arch, spread=0.3)
    tokens = torch.randint(37, (2, 70))
    cache = DecodeCache()
    with torch.no_grad():
        whole = model(tokens)
        torch.testing.assert_close(
            decode(model, tokens, [30, 1, 9, *[1] * 30], cache), whole, rtol=1e-4, atol=1e-4
        )
    lengths = {slot: state[0].shape[2] for slot, state in cache.states.items()}
    for (layer, turn), length in lengths.items():
        window = (2, 7, 19, 70)[turn]
        assert length == (min(window, 11) if arch.layout[layer] == "W" else window)
    assert cache.bytes == 2 * 2 * cost(arch, "cache_bytes@70")  # two sequences, float32 and not bfloat16
