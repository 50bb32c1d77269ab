"""Writing a model as the class chosen for it: a stock class of transformers, or ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from surgery.apply.families import source_name
from surgery.apply.hybrids import GATED
from surgery.apply.parts import Part, parts
from surgery.apply.stock import Export, stock_config
from surgery.architecture import Architecture
from surgery.hf.export import write, write_generation
from surgery.hf.lazy import LazyModel, LazyTensor, main_dtype
from surgery.hf.weights import Progress, write_weights


def write_as(
    model: LazyModel,
    export: Export,
    folder: Path,
    *,
    tokenizer_dir: str | os.PathLike[str] | None = None,
    generation_config: Mapping[str, Any] | None = None,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write everything but the card into an existing folder, as the class of `export`.

    Args:
        model: the model.
        export: the class, such as `choose_export` gives.
        folder: an existing folder.
        tokenizer_dir: a folder whose tokenizer files are copied; the configs get its special tokens.
        generation_config: defaults of `generate`.
        shard_bytes, progress: see `write_weights`.
    """
    writer = partial(write_stock, export=export) if export.is_stock else write
    writer(
        model, folder=folder, tokenizer_dir=tokenizer_dir, generation_config=generation_config,
        shard_bytes=shard_bytes, progress=progress,
    )  # fmt: skip


def write_stock(
    model: LazyModel,
    export: Export,
    folder: Path,
    *,
    tokenizer_dir: str | os.PathLike[str] | None = None,
    generation_config: Mapping[str, Any] | None = None,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write everything but the card into an existing folder, as `surgery.hf.export.write` does for ours."""
    state = stock_state(model, export)
    tokens = write_generation(model.architecture, folder, tokenizer_dir, generation_config)
    config = CONFIG_MAPPING[export.model_type](**{
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
        **stock_config(model.architecture, export), **tokens,
    })  # fmt: skip
    config.architectures = [export.class_name]
    config.dtype = main_dtype(state)
    config.to_json_file(folder / "config.json")
    (folder / "architecture.yaml").write_text(model.architecture.to_yaml(), encoding="utf-8")
    write_weights(state, folder, shard_bytes=shard_bytes, progress=progress)


def stock_state(model: LazyModel, export: Export) -> dict[str, LazyTensor]:
    """Return the tensors by the names, and in the layout, of the stock class."""
    architecture = model.architecture
    state: dict[str, LazyTensor] = {}
    for name, tensor in model.tensors.items():
        if architecture.backbone.tie_embeddings and name == "head.weight":
            continue
        canonical = source_name(name)
        assert canonical is not None, name
        state[canonical] = tensor
    if export.model_type in GATED:
        _add_gates(state, architecture)
    config = CONFIG_MAPPING[export.model_type](**stock_config(architecture, export))
    located = parts(export.model_type, config, {name: tensor.shape for name, tensor in state.items()})
    stored: dict[str, list[tuple[Part, LazyTensor]]] = {}
    for name, part in located.items():
        stored.setdefault(part.stored, []).append((part, state[name]))
    return {name: _joined(pieces) for name, pieces in stored.items()}


def _joined(pieces: Sequence[tuple[Part, LazyTensor]]) -> LazyTensor:
    """Return a stored tensor that is made of these parts."""
    part, first = pieces[0]

    def read() -> Tensor:
        whole: dict[str, Tensor] = {}
        for piece, tensor in pieces:
            piece.write(tensor.read(), whole)
        return whole[part.stored]

    return LazyTensor(part.stored_shape, torch.float32 if part.offset else first.dtype, read)


def _add_gates(state: dict[str, LazyTensor], architecture: Architecture) -> None:
    """Give attention without a gate one of zeros, which is one half, and double `o`; that is exact."""
    for index, layer in enumerate(architecture.layers):
        if layer.mixer == "F" and not layer.mixer_options["gate"]:
            prefix = f"model.layers.{index}.self_attn"
            q, o = state[f"{prefix}.q_proj.weight"], state[f"{prefix}.o_proj.weight"]
            zeros = partial(torch.zeros, q.shape, dtype=q.dtype)
            state[f"{prefix}.gate.weight"] = LazyTensor(q.shape, q.dtype, zeros)
            state[f"{prefix}.o_proj.weight"] = LazyTensor(o.shape, o.dtype, partial(_doubled, o))


def _doubled(tensor: LazyTensor) -> Tensor:
    return 2 * tensor.read()
