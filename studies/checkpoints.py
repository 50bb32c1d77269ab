"""Model folders opened for use: ours or any causal LM of transformers, with their own tokenizer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgery.apply.families import read_backbone
from surgery.apply.source import locate
from surgery.architecture import Architecture
from surgery.hf.configuration import MODEL_TYPE
from surgery.json_source import read_object
from surgery.paths import expand
from surgery.problems import Problem, Problems, UserError


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model in evaluation mode; `longest` is the context in tokens that its config allows."""

    name: str
    folder: Path
    model: Any
    tokenizer: Any
    device: torch.device
    longest: int


def read_layers(model: str | os.PathLike[str]) -> Architecture:
    """What a model is made of: of an architecture file (.yaml), or of a folder or Hub id by its config.

    Raises:
        UserError: not an architecture file, nor a model of ours or of a family that `nas apply` takes.
    """
    if Path(model).suffix.lower() in (".yaml", ".yml"):
        return Architecture.from_yaml(expand(model))
    folder, _ = locate(model)
    try:
        config = read_object(folder / "config.json")
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        rule = "is missing" if missing else f"can't be read: {_first(error)}"
        hint = f"{folder} is no Hugging Face model folder"
        raise _refused(model, Problem("config.json", None, rule, hint)) from error
    if config.get("model_type") == MODEL_TYPE:
        return Architecture.from_dict(config.get("architecture"))
    problems = Problems()
    backbone, _ = read_backbone(config, problems)
    problems.raise_if_any(f"{model}: its layers can't be read")
    assert backbone is not None
    return Architecture(backbone)


def load(model: str | os.PathLike[str], device: torch.device) -> Checkpoint:
    """A model from a folder or the Hub: safetensors only, no remote code.

    In float32 on a CPU, in the checkpoint's own dtype on CUDA.

    Raises:
        UserError: not a model folder, pickled or damaged weights, or no fast tokenizer.
    """
    from transformers import AutoModelForCausalLM

    import surgery  # noqa: F401  (makes transformers know our models)

    folder, _ = locate(model)
    if not (folder / "config.json").is_file():
        raise _refused(
            model, Problem("config.json", None, "is missing", f"{folder} is no Hugging Face model folder")
        )
    tokenizer = _tokenizer(model, folder)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto" if device.type == "cuda" else torch.float32, use_safetensors=True,
            local_files_only=True,
        )  # fmt: skip
    except (
        Exception
    ) as error:  # transformers and safetensors raise many kinds for a folder that can't be used
        raise _refused(model, _explain(error, folder)) from error
    longest = getattr(loaded.config, "max_position_embeddings", None) or 2**31
    return Checkpoint(str(model), folder, loaded.to(device).eval(), tokenizer, device, longest)


def _tokenizer(model: str | os.PathLike[str], folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        hint = "copy the tokenizer's files (tokenizer.json, tokenizer_config.json) into the folder"
        raise _refused(
            model, Problem("tokenizer", str(folder), f"can't be loaded: {_first(error)}", hint)
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        rule = "is not a fast tokenizer (no tokenizer.json), so bytes can't be counted"
        raise _refused(model, Problem("tokenizer", str(folder), rule))
    return tokenizer


def _explain(error: Exception, folder: Path) -> Problem:
    if isinstance(error, UserError) and error.problems:
        return error.problems[0]
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles and not any(folder.glob("*.safetensors")):
        hint = "save the model again as safetensors: a pickle can run code when it is opened"
        return Problem(", ".join(pickles), None, "pickle checkpoints are not read", hint)
    return Problem("model", str(folder), f"can't be loaded: {_first(error)}")


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _refused(model: str | os.PathLike[str], problem: Problem) -> UserError:
    return UserError(f"{model}: can't be used", [problem])
