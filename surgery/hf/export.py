"""Export of a model as a Hugging Face folder: weights, configs, tokenizer, source, architecture and card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from surgery.architecture import Architecture
from surgery.config.json_source import read_object
from surgery.config.problems import Problem, UserError
from surgery.hf.card import card
from surgery.hf.configuration import NasConfig
from surgery.hf.lazy import LazyModel, LazyTensor, main_dtype
from surgery.hf.remote_code import write_remote_code
from surgery.hf.staging import staged
from surgery.hf.weights import Progress, write_weights
from surgery.hf.written import TOKENIZER_FILES
from surgery.model import HybridLM

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
        write(LazyModel.of(model), folder, tokenizer_dir=tokenizer_dir, generation_config=generation_config)
        body = card(model.architecture, title=title or Path(out).name, text=text)
        (folder / "README.md").write_text(body, encoding="utf-8")
    return Path(out)


def write(
    model: LazyModel,
    folder: Path,
    *,
    tokenizer_dir: str | os.PathLike[str] | None = None,
    generation_config: GenerationConfig | Mapping[str, Any] | None = None,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write everything but the card into an existing folder. Arguments as in `save` and `write_weights`."""
    tokens = write_generation(model.architecture, folder, tokenizer_dir, generation_config)
    state = checkpoint(model)
    config = NasConfig(model.architecture.to_dict(), **tokens)
    config.architectures = ["NasForCausalLM"]
    config.dtype = main_dtype(state)
    config.to_json_file(folder / "config.json")
    (folder / "architecture.yaml").write_text(model.architecture.to_yaml(), encoding="utf-8")
    write_remote_code(folder)
    write_weights(state, folder, shard_bytes=shard_bytes, progress=progress)


def write_generation(
    architecture: Architecture,
    folder: Path,
    tokenizer_dir: str | os.PathLike[str] | None,
    generation_config: GenerationConfig | Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write tokenizer and generation_config.json; return the special tokens that the model has rows for."""
    tokens = copy_tokenizer(Path(tokenizer_dir), folder) if tokenizer_dir is not None else {}
    generation = _plain(generation_config)
    rows = architecture.backbone.vocab_size
    tokens = {name: number for name, number in tokens.items() if number < rows}  # others have no embedding
    tokens |= {name: generation[name] for name in _TOKENS if generation.get(name) is not None}
    GenerationConfig(**{**tokens, **generation}).to_json_file(folder / "generation_config.json")
    return tokens


def checkpoint(model: LazyModel) -> dict[str, LazyTensor]:
    """Return the tensors by the names of `NasForCausalLM`; a tied head is stored once, as the embedding."""
    tied = model.architecture.backbone.tie_embeddings
    return {
        f"model.{name}": tensor
        for name, tensor in model.tensors.items()
        if not (tied and name == "head.weight")
    }


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
