"""Writing a model as the class chosen for it: a stock class of transformers, or ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from surgery.apply.families import source_name
from surgery.apply.hybrids import GATED
from surgery.apply.parts import parts
from surgery.apply.stock import Export, stock_config
from surgery.architecture import Architecture
from surgery.hf.export import main_dtype, write, write_generation, write_weights
from surgery.model import HybridLM


def write_as(
    model: HybridLM,
    export: Export,
    folder: Path,
    *,
    tokenizer_dir: str | os.PathLike[str] | None = None,
    generation_config: Mapping[str, Any] | None = None,
) -> None:
    """Write everything but the card into an existing folder, as the class of `export`.

    Args:
        model: the model.
        export: the class, such as `choose_export` gives.
        folder: an existing folder.
        tokenizer_dir: a folder whose tokenizer files are copied; the configs get its special tokens.
        generation_config: defaults of `generate`.
    """
    writer = partial(write_stock, export=export) if export.is_stock else write
    writer(model, folder=folder, tokenizer_dir=tokenizer_dir, generation_config=generation_config)


def write_stock(
    model: HybridLM,
    export: Export,
    folder: Path,
    *,
    tokenizer_dir: str | os.PathLike[str] | None = None,
    generation_config: Mapping[str, Any] | None = None,
) -> None:
    """Write everything but the card into an existing folder, as `surgery.hf.export.write` does for ours."""
    state = stock_state(model, export)
    tokens = write_generation(model, folder, tokenizer_dir, generation_config)
    config = CONFIG_MAPPING[export.model_type](**{
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
        **stock_config(model.architecture, export), **tokens,
    })  # fmt: skip
    config.architectures = [export.class_name]
    config.dtype = main_dtype(state)
    config.to_json_file(folder / "config.json")
    (folder / "architecture.yaml").write_text(model.architecture.to_yaml(), encoding="utf-8")
    write_weights(state, folder)


def stock_state(model: HybridLM, export: Export) -> dict[str, Tensor]:
    """Return the tensors by the names, and in the layout, of the stock class."""
    architecture = model.architecture
    state = {}
    for name, tensor in model.state_dict().items():
        if architecture.backbone.tie_embeddings and name == "head.weight":
            continue
        canonical = source_name(name)
        assert canonical is not None, name
        state[canonical] = tensor.detach()
    if export.model_type in GATED:
        _add_gates(state, architecture)
    config = CONFIG_MAPPING[export.model_type](**stock_config(architecture, export))
    located = parts(export.model_type, config, {name: tuple(tensor.shape) for name, tensor in state.items()})
    result: dict[str, Tensor] = {}
    for name, part in located.items():
        part.write(state[name], result)
    return result


def _add_gates(state: dict[str, Tensor], architecture: Architecture) -> None:
    """Give attention without a gate one of zeros, which is one half, and double `o`; that is exact."""
    for index, layer in enumerate(architecture.layers):
        if layer.mixer == "F" and not layer.mixer_options["gate"]:
            prefix = f"model.layers.{index}.self_attn"
            state[f"{prefix}.gate.weight"] = torch.zeros_like(state[f"{prefix}.q_proj.weight"])
            state[f"{prefix}.o_proj.weight"] = 2 * state[f"{prefix}.o_proj.weight"]
