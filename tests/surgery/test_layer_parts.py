"""Layers that lack a part, or have fewer key/value heads or a narrower feed-forward part than the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from surgery.architecture.costs import cost
from surgery.context import DecodeCache
from surgery.model import HybridLM
from tests.models import architecture, build, decode
from tests.surgery.test_against_transformers import ours_of


def normed(x: np.ndarray, weight: Tensor, eps: float = 1e-6) -> np.ndarray:
    result: np.ndarray = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight.detach().numpy()
    return result


def swiglu(x: np.ndarray, ffn: Any) -> np.ndarray:
    gate, up, down = (getattr(ffn, name).weight.detach().numpy() for name in ("gate", "up", "down"))
    g = x @ gate.T
    result: np.ndarray = (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T
    return result


@pytest.mark.parametrize("post_norm", [False, True])
def test_a_layer_without_mixer_is_its_feed_forward_part(post_norm: bool) -> None:
    """Against numpy: the second layer has neither part."""
    arch = architecture("N", ffn=[{"layers": 1, "dim": 0}], post_norm=post_norm)
    model = build(arch, spread=0.3)
    names = {name.removeprefix("layers.") for name, _ in model.named_parameters() if "layers" in name}
    assert names == {"0.ffn_norm.weight", "0.ffn.gate.weight", "0.ffn.up.weight", "0.ffn.down.weight"}
    tokens = torch.randint(37, (2, 9))
    layer: Any = model.layers[0]
    h = model.embed(tokens).detach().numpy()
    gain = layer.ffn_norm.weight
    y = normed(swiglu(h, layer.ffn), gain) if post_norm else swiglu(normed(h, gain), layer.ffn)
    wanted = normed(h + y, model.norm.weight)
    with torch.no_grad():
        np.testing.assert_allclose(model(tokens).numpy(), wanted, atol=2e-5)
    assert cost(arch, "cache_bytes@50") == 0
    assert cost(arch, "params_nonembedding") == 24 + 24 + 3 * 24 * 20
    assert cost(arch, "decode_flops@50") == 2 * 3 * 24 * 20 + 2 * 24 * 37


@pytest.mark.parametrize("post_norm", [False, True])
def test_a_layer_without_feed_forward_part_is_its_mixer(post_norm: bool) -> None:
    """Against the same model with a feed-forward part whose output is zero."""
    arch = architecture("FG", ffn=[{"dim": 0}], post_norm=post_norm, num_layers=2)
    model = build(arch, spread=0.2)
    whole = HybridLM(architecture("FG", post_norm=post_norm, num_layers=2)).eval()
    missing = whole.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert {name.split(".")[2] for name in missing} == {"ffn", "ffn_norm"}
    with torch.no_grad():
        for layer in whole.layers:
            layer.ffn.down.weight.zero_()  # type: ignore[union-attr]
    tokens = torch.randint(37, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), whole(tokens))
        torch.testing.assert_close(decode(model, tokens, [4, 1, 4]), whole(tokens), atol=1e-4, rtol=1e-4)


def test_a_stack_of_empty_layers_is_the_embedding() -> None:
    model = build(architecture("N", ffn=[{"dim": 0}], loops=2)).train()
    with torch.no_grad():
        model.loop_gate.zero_()  # type: ignore[union-attr]
    tokens = torch.randint(37, (1, 5))
    torch.testing.assert_close(model(tokens), model.norm(model.embed(tokens)))
    assert sum(p.numel() for p in model.parameters()) == cost(model.architecture, "params")
    cache = DecodeCache()
    decode(model, tokens, [3, 2], cache)
    assert (cache.bytes, cache.length) == (0, 5)


def test_fewer_heads_of_keys_are_those_of_transformers_llama() -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6, "head_dim": 10,
        "intermediate_size": 44, "rms_norm_eps": 1e-5, "num_key_value_heads": 2,
    }  # fmt: skip
    theirs = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    grouped = ours_of(theirs, {})
    arch = architecture(
        "F", mixers={"F": {"kv_heads": 2}}, vocab_size=61, dim=24, num_layers=3, num_heads=6, num_kv_heads=6,
        head_dim=10, ffn_dim=44, norm_eps=1e-5,
    )  # fmt: skip
    assert arch == grouped.architecture
    model = HybridLM(arch).eval()
    model.load_state_dict(grouped.state_dict())
    tokens = torch.randint(61, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(model.head(model(tokens)), theirs(tokens).logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(decode(model, tokens, [7, 1, 12]), grouped(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backbone", [{}, {"qk_norm": True, "joint_qk_norm": True, "biases": ["k", "v"]}])
def test_heads_of_keys_that_differ_by_layer(backbone: dict[str, Any]) -> None:
    """Against the same model with every key and value head repeated for its group, window and sinks too."""
    mixers: dict[str, Any] = {
        "F": [{"layers": 0, "kv_heads": 1}],
        "W": [{"kv_heads": 2, "window": 4, "sinks": 1}],
    }
    model = build(architecture("FWF", num_layers=3, num_kv_heads=4, mixers=mixers, **backbone), spread=0.3)
    assert [layer.mixer.k.weight.shape[0] for layer in model.layers] == [6, 12, 24]  # type: ignore[union-attr]
    mixers = {"W": {"window": 4, "sinks": 1}}
    whole = HybridLM(architecture("FWF", num_layers=3, num_kv_heads=4, mixers=mixers, **backbone)).eval()
    state = model.state_dict()
    for name, tensor in whole.state_dict().items():
        if (old := state[name]).shape != tensor.shape:
            state[name] = (
                old.unflatten(0, (-1, 6)).repeat_interleave(len(tensor) // len(old), 0).flatten(0, 1)
            )
    whole.load_state_dict(state)
    tokens = torch.randint(37, (2, 30))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), whole(tokens), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(decode(model, tokens, [1] * 30), whole(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 40])
def test_costs_are_counts_on_the_built_model(size: int) -> None:
    arch = architecture(
        "FWNK", num_layers=4, mixers={"F": {"kv_heads": 1}, "W": [{"window": 7, "kv_heads": 4}]},
        ffn=[{"layers": "0,2", "dim": 9}, {"layers": 3, "dim": 0}],
    )  # fmt: skip
    model = build(arch)
    assert sum(p.numel() for p in model.parameters()) == cost(arch, "params")
    cache = DecodeCache()
    with torch.no_grad():
        decode(model.bfloat16(), torch.randint(37, (1, size)), [size], cache)
    assert cache.bytes == cost(arch, f"cache_bytes@{size}")
