"""Export of a model as a Hugging Face folder: weights, configs, tokenizer, source, architecture and card."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig

from surgery.config.json_source import read_object
from surgery.config.problems import Problem, UserError
from surgery.hf.card import card
from surgery.hf.configuration import NasConfig
from surgery.hf.remote_code import write_remote_code
from surgery.hf.staging import staged
from surgery.hf.written import TOKENIZER_FILES
from surgery.model import HybridLM

SHARD_SIZE = "5GB"
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save(
    model: HybridLM,
    out: str | os.PathLike[str],
    *,
    tokenizer_dir: str | os.PathLike[str] | None = None,
    generation_config: GenerationConfig | Mapping[str, Any] | None = None,
    text: str = "",
    title: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the folder atomically. Weights keep their dtypes.

    Args:
        model: the model.
        out: the folder to write.
        tokenizer_dir: a folder whose tokenizer files are copied; the configs get its special tokens.
        generation_config: defaults of `generate`; its special tokens take precedence over the tokenizer's.
        text: Markdown to add to the card.
        title: the card's title, by default the folder's name.
        overwrite: replace an existing model at `out`.

    Raises:
        UserError: `out` exists, or its disk is read-only or full, or the tokenizer folder has no tokenizer.
    """
    with staged(out, overwrite=overwrite) as folder:
        write(model, folder, tokenizer_dir=tokenizer_dir, generation_config=generation_config)
        body = card(model.architecture, title=title or Path(out).name, text=text)
        (folder / "README.md").write_text(body, encoding="utf-8")
    return Path(out)


def write(
    model: HybridLM,
    folder: Path,
    *,
    tokenizer_dir: str | os.PathLike[str] | None = None,
    generation_config: GenerationConfig | Mapping[str, Any] | None = None,
) -> None:
    """Write everything but the card into an existing folder. Arguments as in `save`."""
    tokens = write_generation(model, folder, tokenizer_dir, generation_config)
    state = checkpoint(model)
    config = NasConfig(model.architecture.to_dict(), **tokens)
    config.architectures = ["NasForCausalLM"]
    config.dtype = main_dtype(state)
    config.to_json_file(folder / "config.json")
    (folder / "architecture.yaml").write_text(model.architecture.to_yaml(), encoding="utf-8")
    write_remote_code(folder)
    write_weights(state, folder)


def write_generation(
    model: HybridLM,
    folder: Path,
    tokenizer_dir: str | os.PathLike[str] | None,
    generation_config: GenerationConfig | Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write tokenizer and generation_config.json; return the special tokens that the model has rows for."""
    tokens = copy_tokenizer(Path(tokenizer_dir), folder) if tokenizer_dir is not None else {}
    generation = _plain(generation_config)
    rows = model.architecture.backbone.vocab_size
    tokens = {name: number for name, number in tokens.items() if number < rows}  # others have no embedding
    tokens |= {name: generation[name] for name in _TOKENS if generation.get(name) is not None}
    GenerationConfig(**{**tokens, **generation}).to_json_file(folder / "generation_config.json")
    return tokens


def checkpoint(model: HybridLM) -> dict[str, Tensor]:
    """Return the tensors by the names of `NasForCausalLM`; a tied head is stored once, as the embedding."""
    tied = model.architecture.backbone.tie_embeddings
    return {
        f"model.{name}": tensor.detach()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "head.weight")
    }


def main_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype of most elements, in which the checkpoint is loaded."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        sizes[tensor.dtype] += tensor.numel()
    return sizes.most_common(1)[0][0]


def copy_tokenizer(source: Path, folder: Path) -> dict[str, Any]:
    """Copy the tokenizer files and return the ids of the tokenizer's special tokens.

    Raises:
        UserError: `source` holds no tokenizer.
    """
    names = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not names:
        problem = Problem("tokenizer", str(source), "holds no tokenizer", "such as tokenizer.json")
        raise UserError("can't copy the tokenizer", [problem])
    for name in names:
        shutil.copyfile(source / name, folder / name)
    templates = source / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, folder / templates.name)
    return _special_tokens(source)


def _special_tokens(source: Path) -> dict[str, Any]:
    """Return the ids of the special tokens, or none without a readable tokenizer.json.

    The caller's generation config may then give them.
    """
    try:
        settings = read_object(source / "tokenizer_config.json")
        added = read_object(source / "tokenizer.json").get("added_tokens")
    except (OSError, ValueError):
        return {}
    items = added if isinstance(added, list) else []
    ids = {item.get("content"): item.get("id") for item in items if isinstance(item, dict)}
    tokens = {}
    for name in _TOKENS:
        token = settings.get(name.removesuffix("_id"))
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and isinstance(ids.get(token), int):
            tokens[name] = ids[token]
    return tokens


def _plain(generation_config: GenerationConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    if generation_config is None:
        return {}
    if isinstance(generation_config, GenerationConfig):
        return dict(generation_config.to_diff_dict())
    return dict(generation_config)


def write_weights(state: dict[str, Tensor], folder: Path) -> None:
    """Write `model.safetensors`, or shards with an index if one file would be too large."""
    split = split_torch_state_dict_into_shards(state, max_shard_size=SHARD_SIZE)
    for name, keys in split.filename_to_tensors.items():
        save_file({key: state[key].contiguous() for key in keys}, folder / name, metadata={"format": "pt"})
        os.chmod(folder / name, 0o666 & (folder.stat().st_mode & 0o777))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")
