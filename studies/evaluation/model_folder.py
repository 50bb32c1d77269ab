"""Loading model folders: ours or any causal LM of transformers, with their own tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgery.apply.config_json import read_family_config
from surgery.apply.families import IGNORED_SUFFIXES
from surgery.apply.names import by_layers, explain_names
from surgery.apply.source import GENERATION, read_config
from surgery.apply.tokens import SPECIAL, usable_ids
from surgery.apply.weights import check_files, find_weights, read_headers
from surgery.architecture import Architecture
from surgery.config.json_source import try_object
from surgery.config.options import LARGEST
from surgery.config.paths import expand
from surgery.config.problems import Problem, Problems, UserError
from surgery.hf.configuration import MODEL_TYPE
from surgery.hf.custom_code import TRUST, check_model_code
from surgery.hf.generation_settings import check_generation
from surgery.hf.locate import locate
from surgery.hf.tokenizer import RESIZE, check_tokenizer_files, find_rowless, load_tokenizer
from surgery.model import HybridLM

MOST_MODULES = 4096  # layers of a model, or experts of a layer


def vocabulary(model: Any) -> int:
    """Return the rows of a model's embedding; by its config if foreign code does not expose the embedding."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):
        return int(getattr(model.config, "vocab_size", None) or 2**31)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model in evaluation mode.

    Attributes:
        longest: context in tokens that its config allows.
        rows: of the embedding; tokens from this id on can't be used.
        notes: remarks on irregularities of the folder, and how it was read.
    """

    name: str
    folder: Path
    model: Any
    tokenizer: Any
    device: torch.device
    longest: int
    rows: int
    notes: tuple[str, ...] = ()


def read_layers(model: str | os.PathLike[str]) -> Architecture:
    """Return the architecture of a .yaml file, or of a model folder or Hub id by its config.

    Raises:
        UserError: neither an architecture file nor a model of ours or of a family that `nas apply` supports.
    """
    if Path(model).suffix.lower() in (".yaml", ".yml"):
        return Architecture.from_yaml(expand(model))
    folder, _ = locate(model)
    problems = Problems()
    config = read_config(folder, problems)
    problems.raise_if_any(f"{model}: its layers can't be read")
    assert config is not None
    if config.get("model_type") == MODEL_TYPE:
        return Architecture.from_dict(config.get("architecture"))
    family = read_family_config(config, problems)
    problems.raise_if_any(f"{model}: its layers can't be read")
    assert family is not None
    return family.architecture


def load(
    model: str | os.PathLike[str], device: torch.device, *, trust_remote_code: bool = False
) -> Checkpoint:
    """Load a model from a folder or the Hub, from safetensors only.

    The dtype is float32 on a CPU and the checkpoint's own on CUDA. Never prompts on standard input.

    Args:
        trust_remote_code: run code that the model ships. Models of this package never need it: the package
            itself loads them.

    Raises:
        UserError: not a model folder; pickled, damaged or missing weights; untrusted code; or no fast
            tokenizer.
    """
    import surgery  # noqa: F401  (registers our models with transformers)

    folder, _ = locate(model, code=trust_remote_code)
    problems = Problems()
    notes: list[str] = []
    config = read_config(folder, problems)
    generation = try_object(folder / GENERATION, problems, "remove it if you don't need it") or {}
    check_generation(generation, GENERATION, problems)
    check_tokenizer_files(folder, problems)
    if config is not None:
        notes += check_model_code(config, trust_remote_code, problems)
        _check_padding(config, problems)
        _check_sizes(config, "config.json", problems)
    check_files(find_weights(folder, config or {}, problems, notes), problems)
    problems.raise_if_any(f"{model}: can't be used")
    assert config is not None
    tokenizer = _tokenizer(folder, trust_remote_code)
    loaded, said = _load(model, folder, config, device, trust_remote_code)
    rows = vocabulary(loaded)
    notes += said + _odd_tokens(tokenizer, config, generation, rows)
    if getattr(loaded, "generation_config", None) is not None:
        _drop_unusable(loaded.generation_config, rows)
    longest = getattr(loaded.config, "max_position_embeddings", None) or 2**31
    return Checkpoint(
        str(model), folder, loaded.to(device).eval(), tokenizer, device, longest, rows, tuple(notes)
    )


def check_tokens(checkpoint: Checkpoint, ids: Iterable[int]) -> None:
    """Check that every token id has a row in the model's embedding.

    Raises:
        UserError: names up to ten tokens without a row.
    """
    wrong = sorted({int(number) for number in ids if number >= checkpoint.rows})
    if not wrong:
        return
    problems = Problems()
    for number in wrong[:10]:
        token = checkpoint.tokenizer.convert_ids_to_tokens(number)
        rule = f"is token {number}, but the model's tokens are 0 to {checkpoint.rows - 1}"
        problems.add("text", token, rule, f"leave it out of the text; {RESIZE}")
    problems.raise_if_any("the tokenizer does not fit the model")


def _tokenizer(folder: Path, trusted: bool) -> Any:
    tokenizer = load_tokenizer(folder, trust_remote_code=trusted, code_hint=TRUST)
    if not getattr(tokenizer, "is_fast", False):
        rule = "is not a fast tokenizer (no tokenizer.json), so bytes can't be counted"
        raise UserError("the tokenizer can't be used", [Problem("tokenizer", str(folder), rule)])
    return tokenizer


def _load(
    model: str | os.PathLike[str], folder: Path, config: dict[str, Any], device: torch.device, trusted: bool
) -> tuple[Any, list[str]]:
    """Return the model and notes on tensors that it does not use."""
    from transformers import AutoModelForCausalLM

    try:
        loaded, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto" if device.type == "cuda" else torch.float32, use_safetensors=True,
            local_files_only=True, trust_remote_code=trusted, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # transformers and safetensors raise many kinds for a folder
        raise UserError(f"{model}: can't be used", _explain(error, folder, config)) from error
    unused = [name for name in info["unexpected_keys"] if not name.endswith(IGNORED_SUFFIXES)]
    problems = Problems()
    for name, stored, wanted in sorted(info["mismatched_keys"]):
        problems.add(name, list(stored), f"must have shape {list(wanted)}, by config.json")
    if info["missing_keys"]:
        tied = bool(getattr(loaded.config, "tie_word_embeddings", False))
        explain_names(sorted(info["missing_keys"]), sorted(unused), tied, problems, loaded.state_dict())
    problems.raise_if_any(f"{model}: can't be used")
    lines = by_layers(sorted(unused))
    shown = ", ".join(lines[:3]) + (" and more" if len(lines) > 3 else "")
    return loaded, [f"{shown}: not used, the model has no such tensor"] if unused else []


def _check_padding(config: dict[str, Any], problems: Problems) -> None:
    """Add a problem if the padding token has no row, for which transformers can't build the model."""
    padding, rows = config.get("pad_token_id"), config.get("vocab_size")
    if isinstance(padding, int) and isinstance(rows, int) and padding >= rows:
        hint = "name another token there, or leave it out"
        problems.add("config.json: pad_token_id", padding, f"must be below vocab_size ({rows})", hint)


def _check_sizes(settings: dict[str, Any], where: str, problems: Problems) -> None:
    """Add a problem for every implausible size: transformers would allocate modules until memory runs out."""
    for name, value in settings.items():
        if isinstance(value, dict):
            _check_sizes(value, f"{where}: {name}", problems)
        elif isinstance(value, int):
            most = MOST_MODULES if name.endswith(("layers", "layer", "experts")) else LARGEST
            if abs(value) > most:
                problems.add(f"{where}: {name}", value, f"is larger than any model's, at most {most:,}")


def _odd_tokens(tokenizer: Any, config: dict[str, Any], generation: dict[str, Any], rows: int) -> list[str]:
    """Return notes on tokens that the model has no row for."""
    rowless = find_rowless(tokenizer, rows)
    notes = [f"tokenizer: {rowless}; a text with it can't be used. {RESIZE}"] if rowless else []
    for file, settings in (("config.json", config), (GENERATION, generation)):
        usable_ids(settings, rows, file, notes)
    return notes


def _drop_unusable(defaults: Any, rows: int) -> None:
    """Remove special tokens that the model has no row for from the defaults of `generate`."""
    given = {name: getattr(defaults, name, None) for name in SPECIAL}
    usable = usable_ids(given, rows, "", [])
    for name in SPECIAL:
        setattr(defaults, name, usable.get(name))


def _explain(error: Exception, folder: Path, config: dict[str, Any]) -> list[Problem]:
    if isinstance(error, UserError) and error.problems:
        return list(error.problems)
    problems = Problems()
    if config.get("model_type") == MODEL_TYPE:
        _explain_ours(folder, config, problems)
    if not problems:
        problems.add("model", str(folder), f"can't be loaded: {_first(error)}")
    return problems.entries


def _explain_ours(folder: Path, config: dict[str, Any], problems: Problems) -> None:
    """Add the problems of the tensors of a model that this package wrote."""
    architecture = Architecture.from_dict(config.get("architecture"))
    with torch.device("meta"):
        known = {f"model.{name}" for name in HybridLM(architecture).state_dict()}
    stored = read_headers(find_weights(folder, config, problems, []), IGNORED_SUFFIXES, problems, [])
    tied = architecture.backbone.tie_embeddings
    needed = known - ({"model.head.weight"} if tied else set())
    missing, unexpected = sorted(needed - stored.keys()), sorted(stored.keys() - known)
    if missing:
        explain_names(missing, unexpected, tied, problems, known)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
