"""A pretrained checkpoint, read lazily: its config as a backbone, and its tensors on demand."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from surgery.apply.config_json import FamilyConfig, read_family_config
from surgery.apply.families import FAMILIES, IGNORED_SUFFIXES, source_name
from surgery.apply.names import EMBEDDING, HEAD, explain_names, match_names
from surgery.apply.parts import parts
from surgery.apply.tokens import check_tokenizer, usable_ids
from surgery.apply.weights import ADAPTER, TensorInfo, find_weights, read_headers
from surgery.architecture import Architecture
from surgery.config.backbone import Backbone
from surgery.config.json_source import try_object
from surgery.config.problems import Problems
from surgery.hf.generation_settings import check_generation
from surgery.hf.locate import locate
from surgery.hf.written import TOKENIZER_FILES

GENERATION = "generation_config.json"


@dataclass(frozen=True)
class SourceModel:
    """A validated checkpoint: every tensor that its backbone needs exists in the right shape."""

    name: str  # as given: a folder or a Hub id
    folder: Path
    config: dict[str, Any]
    architecture: Architecture  # of the checkpoint: dense projections, layers `F`, `W` and `G`, no loop
    tensors: dict[str, TensorInfo]  # by the names of transformers' Llama
    generation: dict[str, Any]  # of generation_config.json
    notes: tuple[str, ...] = ()
    hub_id: str | None = None

    @property
    def family(self) -> str:
        """The `model_type` of the config."""
        return str(self.config["model_type"])

    @property
    def backbone(self) -> Backbone:
        """The sizes of the checkpoint's model."""
        return self.architecture.backbone

    def tensor(self, name: str) -> Tensor:
        """Read a tensor by its name, unchanged."""
        return self.tensors[name].open()

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Read tensors, opening each file once; yields (name, tensor)."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        for file, inside in by_file.items():
            with safe_open(file, framework="pt") as opened:
                for name in inside:
                    yield name, self.tensors[name].read(opened)

    def check_values(self) -> None:
        """Check all values of all tensors.

        Raises:
            UserError: as `ValueCheck.finish`.
        """
        ValueCheck(self).finish()

    @property
    def shard_bytes(self) -> int | None:
        """Size of the largest of its weight files, if it has several."""
        files = {info.file for info in self.tensors.values()}
        return max(file.stat().st_size for file in files) if len(files) > 1 else None


class ValueCheck:
    """A check of a checkpoint's values that takes tensors that are read anyway, and reads the rest itself."""

    def __init__(self, source: SourceModel) -> None:
        self._source = source
        self._rules: dict[str, str] = {}  # broken ones of the tensors seen; empty if they are sound

    def see(self, name: str, tensor: Tensor) -> None:
        """Check a tensor that has been read."""
        if name in self._rules:
            return
        rule = ""
        # one pass without another tensor of this size; NaN is the extreme of any tensor that holds it
        if tensor.numel() and not all(bool(extreme.isfinite()) for extreme in tensor.aminmax()):
            count = int((~torch.isfinite(tensor)).sum())
            rule = f"holds {count} NaN or infinite numbers of {tensor.numel()}"
        self._rules[name] = rule

    def finish(self) -> None:
        """Check the tensors that were not seen.

        Raises:
            UserError: tensors hold NaN or infinite numbers (all are listed), or a tied head differs from the
                embedding.
        """
        source, problems = self._source, Problems()
        for name, tensor in source.read(name for name in source.tensors if name not in self._rules):
            self.see(name, tensor)
        for name in source.tensors:
            if rule := self._rules[name]:
                problems.add(name, None, rule)
        both = source.backbone.tie_embeddings and HEAD in source.tensors
        if both and not torch.equal(source.tensor(HEAD), source.tensor(EMBEDDING)):
            problems.add(
                HEAD, None, "differs from the embedding that the config ties it to",
                "set tie_word_embeddings: false in its config.json",
            )  # fmt: skip
        problems.raise_if_any(f"{source.name}: the weights can't be used")


def read_source(model: str | os.PathLike[str]) -> SourceModel:
    """Open a checkpoint from a local folder, or from the Hub by its id.

    Raises:
        UserError: it does not exist, its family is not supported, or tensors are missing, unexpected,
            misshapen or unreadable. All problems are listed.
    """
    folder, hub_id = locate(model)
    title = f"{model}: can't be rewritten"
    problems = Problems()
    config = read_config(folder, problems)
    family = read_family_config(config, problems) if config is not None else None
    notes = list(family.notes) if family is not None else []
    generation = try_object(folder / GENERATION, problems, "remove it if you don't need it") or {}
    check_generation(generation, GENERATION, problems)
    files = find_weights(folder, config or {}, problems, notes)
    stored = read_headers(files, IGNORED_SUFFIXES, problems, notes)
    tensors = _match_tensors(family, stored, problems) if family is not None else {}
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        rows = family.architecture.backbone.vocab_size if family is not None else 2**62
        notes += check_tokenizer(folder, rows, problems)
    problems.raise_if_any(title)
    assert config is not None
    assert family is not None
    architecture = family.architecture
    rows = architecture.backbone.vocab_size
    config = usable_ids(config, rows, "config.json", notes)
    generation = usable_ids(generation, rows, GENERATION, notes)
    return SourceModel(str(model), folder, config, architecture, tensors, generation, tuple(notes), hub_id)


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


def needed_tensors(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a checkpoint with this architecture, by the names of Llama."""
    from surgery.model import HybridLM

    with torch.device("meta"):
        model = HybridLM(architecture)
    shapes = {}
    for name, tensor in model.state_dict().items():
        theirs = source_name(name)
        assert theirs is not None, name
        shapes[theirs] = tuple(tensor.shape)
    if architecture.backbone.tie_embeddings:
        del shapes[HEAD]
    return shapes


def _match_tensors(
    family: FamilyConfig, stored: dict[str, TensorInfo], problems: Problems
) -> dict[str, TensorInfo]:
    """Return the tensors by the names of Llama.

    Either of a tied embedding and head is sufficient, as in transformers.
    """
    if not stored and problems:
        return {}  # no file could be read, which has been reported
    if not stored:
        problems.add("the weight files", None, "hold no tensors")
        return {}
    backbone = family.architecture.backbone
    located = parts(family.kind, family.config, needed_tensors(family.architecture))
    needed = {part.stored: part.stored_shape for part in located.values()}
    known = {**needed, HEAD: (backbone.vocab_size, backbone.dim)}
    stored = FAMILIES[family.kind].spelled(stored)
    names = match_names(stored, known, problems)
    present = {ours: stored[theirs] for ours, theirs in names.items()}
    if backbone.tie_embeddings and HEAD in present and EMBEDDING not in present:
        present[EMBEDDING] = present.pop(HEAD)
    missing = [name for name in needed if name not in present]
    unexpected = [name for name in present if name not in known]
    explain_names(missing, unexpected, backbone.tie_embeddings, problems, known)
    for name, shape in known.items():
        info = present.get(name)
        if info is not None and info.shape != shape:
            problems.add(name, list(info.shape), f"must have shape {list(shape)}, by config.json")
    tensors = {
        name: part.of(present[part.stored]) for name, part in located.items() if part.stored in present
    }
    if backbone.tie_embeddings and HEAD in present:
        tensors[HEAD] = replace(present[HEAD], factor=tensors[EMBEDDING].factor)
    return tensors
