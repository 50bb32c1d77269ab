"""Writing a model as a stock class of transformers: its tensors by that class's names, and its config."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from surgery.apply.families import FAMILIES, source_name
from surgery.apply.stock import Export, stock_config
from surgery.hf.export import main_dtype, write_generation, write_weights
from surgery.mixers.gdn.sizes import DeltaSizes, resolve
from surgery.model import HybridLM

_DELTA = {"conv": "conv1d.weight", "A_log": "A_log", "dt_bias": "dt_bias", "norm.weight": "norm.weight"}


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
    """Return the tensors by the names, and in the layout, of the stock class.

    Norms of Qwen3-Next are stored as differences from 1, in float32, which keeps them exact.
    """
    tied = model.architecture.backbone.tie_embeddings
    state = {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "head.weight")
    }
    if export.model_type == "qwen3_next":
        return dict(_qwen3_next(model, state))
    renamed = FAMILIES[export.model_type].renamed
    result = {}
    for name, tensor in state.items():
        canonical = source_name(name)
        assert canonical is not None, name
        parts = canonical.split(".")
        if parts[:2] == ["model", "layers"] and parts[3] in renamed:
            canonical = ".".join([*parts[:3], renamed[parts[3]], *parts[4:]])
        result[canonical] = tensor
    return result


def _qwen3_next(model: HybridLM, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    architecture = model.architecture
    deltas: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        parts = name.split(".")
        index = int(parts[1]) if parts[0] == "layers" else -1
        if index >= 0 and parts[2] == "mixer" and architecture.layout[index] == "G":
            deltas.setdefault(index, {})[".".join(parts[3:])] = tensor
            continue
        if parts[2:4] == ["mixer", "gate"]:
            continue  # written with q
        canonical = source_name(name)
        assert canonical is not None, name
        if canonical.endswith("norm.weight"):
            tensor = tensor.float() - 1
        elif parts[2:4] == ["mixer", "q"]:
            tensor = _with_gate(tensor, state.get(f"layers.{index}.mixer.gate.weight"), model)
        elif parts[2:4] == ["mixer", "o"] and f"layers.{index}.mixer.gate.weight" not in state:
            tensor = 2 * tensor  # undoes the gate of one half
        yield canonical, tensor
    for index, tensors in deltas.items():
        sizes = resolve(architecture.backbone, architecture.layers[index].mixer_options)
        for name, tensor in _delta(tensors, sizes):
            yield f"model.layers.{index}.linear_attn.{name}", tensor


def _with_gate(q: Tensor, gate: Tensor | None, model: HybridLM) -> Tensor:
    """Return each head's rows of q followed by its rows of the gate; zeros are a gate of 1/2."""
    width = model.architecture.backbone.head_dim
    gate = torch.zeros_like(q) if gate is None else gate.to(q.dtype)
    heads = (q.unflatten(0, (-1, width)), gate.unflatten(0, (-1, width)))
    return torch.cat(heads, dim=1).flatten(0, 1)


def _delta(tensors: Mapping[str, Tensor], sizes: DeltaSizes) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a Gated DeltaNet layer; q k v and the gate, beta and decay are fused by head."""

    def fused(*names: str) -> Tensor:
        rows = [tensors[f"{name}.weight"].unflatten(0, (sizes.heads, -1)) for name in names]
        return torch.cat(rows, dim=1).flatten(0, 1)

    yield "in_proj_qkvz.weight", fused("q", "k", "v", "output_gate")
    yield "in_proj_ba.weight", fused("beta", "decay")
    yield "out_proj.weight", tensors["o.weight"]
    for ours, theirs in _DELTA.items():
        yield theirs, tensors[ours]
