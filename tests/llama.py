"""Small untrained Llamas of transformers, as folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path


def save_random_llama(folder: Path, tokenizer: Iterable[Path], vocab_size: int, **sizes: int) -> None:
    """Write a Llama with random weights, the same every time, and copies of the tokenizer's files."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    small = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    config = LlamaConfig(vocab_size=vocab_size, tie_word_embeddings=False, **(small | sizes))
    LlamaForCausalLM(config).save_pretrained(folder)
    for path in tokenizer:
        shutil.copy(path, folder)
