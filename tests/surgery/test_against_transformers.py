"""An all-dense, unlooped model with a checkpoint's weights is that checkpoint's model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from surgery.architecture import Architecture
from surgery.model import HybridLM
from tests.models import decode

SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10, "intermediate_size": 44, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "attn_implementation": "eager",
}  # fmt: skip
NAMES = {  # theirs -> ours
    "model.embed_tokens": "embed", "model.norm": "norm", "model.layers": "layers", "lm_head": "head",
    "self_attn": "mixer", "mlp": "ffn", "input_layernorm": "mixer_norm",
    "post_attention_layernorm": "ffn_norm",
    "_proj.": ".",
}  # fmt: skip
ROPE = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
}  # fmt: skip

CASES = {
    "llama grouped": (LlamaForCausalLM, LlamaConfig(**SIZES), {}),
    "llama one kv head, tied": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
        {"num_kv_heads": 1, "tie_embeddings": True},
    ),
    "llama all biases": (
        LlamaForCausalLM, LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True), {"biases": "all"}
    ),
    "qwen2 biases on q k v": (Qwen2ForCausalLM, Qwen2Config(**SIZES), {"biases": ["q", "k", "v"]}),
    "qwen3 norms on heads": (Qwen3ForCausalLM, Qwen3Config(**SIZES), {"qk_norm": True}),
    **{
        f"llama {name}": (
            LlamaForCausalLM,
            LlamaConfig(**SIZES, rope_parameters={"rope_theta": 5000.0, **scaling}),
            {"rope_theta": 5000.0, "rope_scaling": scaling},
        )
        for name, scaling in ROPE.items()
    },
}  # fmt: skip


def ours_of(theirs: nn.Module, backbone: dict[str, Any]) -> HybridLM:
    arch = Architecture.from_dict({"backbone": {
        "vocab_size": 61, "dim": 24, "num_layers": 3, "num_heads": 6, "num_kv_heads": 2, "head_dim": 10,
        "ffn_dim": 44, "norm_eps": 1e-5, **backbone,
    }})  # fmt: skip
    state = {}
    for name, tensor in theirs.state_dict().items():
        for their_name, our_name in NAMES.items():
            name = name.replace(their_name, our_name)
        state[name] = tensor
    model = HybridLM(arch).eval()
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_transformers(case: str) -> None:
    kind, config, backbone = CASES[case]
    theirs = kind(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if parameter.ndim == 1 else 0.0))
    ours = ours_of(theirs, backbone)
    tokens = torch.randint(61, (2, 70))
    logits = ours.head(ours(tokens))
    expected = theirs(tokens).logits
    scale = expected.detach().abs().max().item()
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * scale)
    with torch.no_grad():
        stepped = ours.head(decode(ours, tokens, [40, *([1] * 30)]))
        torch.testing.assert_close(stepped, expected, rtol=1e-4, atol=1e-4 * scale)

    loss, _ = ours.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    their_loss = theirs(tokens, labels=tokens).loss
    their_loss.backward()
    torch.testing.assert_close(loss, their_loss, rtol=1e-5, atol=1e-5)
    q = ours.layers[0].mixer.q.weight.grad
    torch.testing.assert_close(q, theirs.model.layers[0].self_attn.q_proj.weight.grad, rtol=1e-3, atol=1e-5)


def test_left_padding_equals_transformers() -> None:
    kind, config, backbone = CASES["llama grouped"]
    theirs = kind(config).eval()
    ours = ours_of(theirs, backbone)
    tokens = torch.randint(61, (2, 12))
    mask = torch.tensor([[1] * 12, [0] * 5 + [1] * 7])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=mask, position_ids=positions).logits
        logits = ours.head(ours(tokens, attention_mask=mask))
    real = mask.bool()
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-5)
