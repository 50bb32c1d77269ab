"""A pretrained checkpoint, read lazily: its config as a backbone, and its tensors on demand."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from surgery.apply.families import IGNORED_SUFFIXES, read_backbone, source_name
from surgery.apply.names import EMBEDDING, HEAD, explain_names, match_names
from surgery.apply.tokens import check_tokenizer, usable_ids
from surgery.apply.weights import ADAPTER, TensorInfo, find_weights, read_headers
from surgery.architecture import Architecture
from surgery.config.backbone import Backbone
from surgery.config.json_source import try_object
from surgery.config.problems import Problem, Problems, UserError
from surgery.hf.generation_settings import check_generation
from surgery.hf.written import TOKENIZER_FILES

GENERATION = "generation_config.json"


@dataclass(frozen=True)
class SourceModel:
    """A validated checkpoint: every tensor that its backbone needs exists in the right shape."""

    name: str  # as given: a folder or a Hub id
    folder: Path
    config: dict[str, Any]
    backbone: Backbone
    tensors: dict[str, TensorInfo]  # by transformers' names, which may differ from the files'
    generation: dict[str, Any]  # of generation_config.json
    notes: tuple[str, ...] = ()
    hub_id: str | None = None

    @property
    def family(self) -> str:
        """The `model_type` of the config."""
        return str(self.config["model_type"])

    @cached_property
    def architecture(self) -> Architecture:
        """The checkpoint's present architecture: dense, full attention, no loop."""
        return Architecture(self.backbone)

    def tensor(self, name: str) -> Tensor:
        """Read a tensor by its name, unchanged."""
        info = self.tensors[name]
        with safe_open(info.file, framework="pt") as opened:
            loaded: Tensor = opened.get_tensor(info.stored)
        return loaded

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Read tensors, opening each file once; yields (name, tensor)."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        for file, inside in by_file.items():
            with safe_open(file, framework="pt") as opened:
                for name in inside:
                    yield name, opened.get_tensor(self.tensors[name].stored)

    def check_values(self) -> None:
        """Check all values of all tensors.

        Raises:
            UserError: tensors hold NaN or infinite numbers (all are listed), or a tied head differs from the
                embedding.
        """
        problems = Problems()
        for name, tensor in self.read(self.tensors):
            if not bool(torch.isfinite(tensor).all()):
                count = int((~torch.isfinite(tensor)).sum())
                problems.add(name, None, f"holds {count} NaN or infinite numbers of {tensor.numel()}")
        both = self.backbone.tie_embeddings and HEAD in self.tensors
        if both and not torch.equal(self.tensor(HEAD), self.tensor(EMBEDDING)):
            problems.add(
                HEAD, None, "differs from the embedding that the config ties it to",
                "set tie_word_embeddings: false in its config.json",
            )  # fmt: skip
        problems.raise_if_any(f"{self.name}: the weights can't be used")


def read_source(model: str | os.PathLike[str]) -> SourceModel:
    """Open a checkpoint from a local folder, or from the Hub by its id.

    Raises:
        UserError: it does not exist, its family is not supported, or tensors are missing, unexpected,
            misshapen or unreadable. All problems are listed.
    """
    folder, hub_id = locate(model)
    title = f"{model}: can't be rewritten"
    problems = Problems()
    notes: list[str] = []
    backbone = None
    config = read_config(folder, problems)
    if config is not None:
        backbone, notes = read_backbone(config, problems)
    generation = try_object(folder / GENERATION, problems, "remove it if you don't need it") or {}
    check_generation(generation, GENERATION, problems)
    files = find_weights(folder, config or {}, problems, notes)
    stored = read_headers(files, IGNORED_SUFFIXES, problems, notes)
    tensors = {} if backbone is None else _match_tensors(backbone, stored, problems)
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        notes += check_tokenizer(folder, backbone.vocab_size if backbone is not None else 2**62, problems)
    problems.raise_if_any(title)
    assert config is not None
    assert backbone is not None
    rows = backbone.vocab_size
    config = usable_ids(config, rows, "config.json", notes)
    generation = usable_ids(generation, rows, GENERATION, notes)
    return SourceModel(str(model), folder, config, backbone, tensors, generation, tuple(notes), hub_id)


def read_config(folder: Path, problems: Problems) -> dict[str, Any] | None:
    """Return config.json; a missing or unusable file is added to `problems`, and gives None."""
    config = try_object(folder / "config.json", problems)
    if config is None and not problems and not (folder / ADAPTER).is_file():
        problems.add("config.json", None, "is missing", _hint_at(folder))
    return config


def _hint_at(folder: Path) -> str:
    """Return a hint about a subfolder that holds a model, if there is one."""
    for pattern in ("*/config.json", "snapshots/*/config.json"):
        for path in sorted(folder.glob(pattern)):
            return f"give {path.parent}, which holds a model"
    return f"{folder} is no Hugging Face model folder"


def locate(model: str | os.PathLike[str], *, code: bool = False) -> tuple[Path, str | None]:
    """Return the folder that holds the checkpoint, and its Hub id if it came from there.

    Args:
        model: a folder or a Hub id.
        code: also download the model's own code.

    Raises:
        UserError: no such folder, and the Hub has no such model or can't be reached.
    """
    name = str(model)
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return path, None
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem("model", name, f"can't be opened: {reason}", "a folder or a Hub id")
        raise UserError("can't read the model", [problem]) from error
    if exists or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        rule = "is not a folder" if exists else "does not exist"
        raise UserError("can't read the model", [Problem("model", name, rule, "a folder or a Hub id")])
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", *(["*.py"] if code else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns)), name
    except Exception as error:  # network, authentication, no such model: many classes, one meaning here
        reason = f"is no folder here, and the Hub gave {type(error).__name__}"
        first = str(error).strip().split("\n", 1)[0]
        hint = "without network give the folder of a downloaded model; a gated one needs `hf auth login`"
        raise UserError(
            "can't read the model", [Problem("model", name, f"{reason}: {first[:160]}", hint)]
        ) from error


def needed_tensors(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a model with this backbone, by transformers' names."""
    from surgery.model import HybridLM

    with torch.device("meta"):
        model = HybridLM(Architecture(backbone))
    shapes = {}
    for name, tensor in model.state_dict().items():
        theirs = source_name(name)
        assert theirs is not None, name
        shapes[theirs] = tuple(tensor.shape)
    if backbone.tie_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def _match_tensors(
    backbone: Backbone, stored: dict[str, TensorInfo], problems: Problems
) -> dict[str, TensorInfo]:
    """Return the stored tensors by the names of a model with this backbone.

    Either of a tied embedding and head is sufficient, as in transformers.
    """
    if not stored and problems:
        return {}  # no file could be read, which has been reported
    if not stored:
        problems.add("the weight files", None, "hold no tensors")
        return {}
    needed = needed_tensors(backbone)
    known = {**needed, HEAD: (backbone.vocab_size, backbone.dim)}
    names = match_names(stored, known, problems)
    tensors = {ours: stored[theirs] for ours, theirs in names.items()}
    if backbone.tie_embeddings and HEAD in tensors and EMBEDDING not in tensors:
        tensors[EMBEDDING] = tensors.pop(HEAD)
    missing = [name for name in needed if name not in tensors]
    unexpected = [name for name in tensors if name not in known]
    explain_names(missing, unexpected, backbone.tie_embeddings, problems, known)
    for name, shape in known.items():
        info = tensors.get(name)
        if info is not None and info.shape != shape:
            problems.add(name, list(info.shape), f"must have shape {list(shape)}, by config.json")
    return tensors
