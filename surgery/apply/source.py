"""A pretrained checkpoint, read lazily: its config as a backbone, its tensors one at a time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from surgery.apply.families import IGNORED_SUFFIXES, read_backbone, source_name
from surgery.architecture import Architecture
from surgery.backbone import Backbone
from surgery.problems import Problem, Problems, UserError
from surgery.rules import write_layers

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_LAYER = re.compile(r"(.*?\blayers\.)(\d+)(\..*)")
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor stands, and what it is."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class SourceModel:
    """A checked checkpoint: every tensor its backbone needs is there, in the right shape."""

    name: str  # as the user gave it: a folder or a Hub id
    folder: Path
    config: dict[str, Any]
    backbone: Backbone
    tensors: dict[str, TensorInfo]  # by the checkpoint's own names
    notes: tuple[str, ...] = ()
    hub_id: str | None = None

    @property
    def family(self) -> str:
        return str(self.config["model_type"])

    @cached_property
    def architecture(self) -> Architecture:
        """What it is now: dense, full attention, no loop."""
        return Architecture(self.backbone)

    def tensor(self, name: str) -> Tensor:
        """A tensor by its checkpoint name, bit for bit."""
        file = self.tensors[name].file
        with safe_open(file, framework="pt") as opened:
            loaded: Tensor = opened.get_tensor(name)
        return loaded

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Many tensors, each file opened once."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        for file, inside in by_file.items():
            with safe_open(file, framework="pt") as opened:
                for name in inside:
                    yield name, opened.get_tensor(name)

    def check_values(self) -> None:
        """Reads every number once.

        Raises:
            UserError: tensors with NaN or infinite numbers, all listed; a tied head that differs.
        """
        problems = Problems()
        for name, tensor in self.read(self.tensors):
            if not bool(torch.isfinite(tensor).all()):
                count = int((~torch.isfinite(tensor)).sum())
                problems.add(name, None, f"holds {count} NaN or infinite numbers of {tensor.numel()}")
        if self.backbone.tie_embeddings and "lm_head.weight" in self.tensors:
            embed = self.tensor("model.embed_tokens.weight")
            if not torch.equal(self.tensor("lm_head.weight"), embed):
                problems.add(
                    "lm_head.weight", None, "differs from the embedding that the config ties it to",
                    "set tie_word_embeddings: false in its config.json",
                )  # fmt: skip
        problems.raise_if_any(f"{self.name}: the weights can't be used")


def read_source(model: str | os.PathLike[str]) -> SourceModel:
    """Opens a checkpoint from a local folder, or from the Hub by its id.

    Raises:
        UserError: not found, not a family that can be carried, or a checkpoint with missing, unexpected,
            misshapen or unreadable tensors: everything that is wrong, at once.
    """
    folder, hub_id = locate(model)
    config = _read_json(folder / "config.json", str(model))
    problems = Problems()
    backbone, notes = read_backbone(config, problems)
    files = _weight_files(folder, problems)
    tensors = _read_headers(files, problems)
    if backbone is not None:
        _check_tensors(backbone, tensors, problems)
    problems.raise_if_any(f"{model}: can't be rewritten")
    assert backbone is not None
    tensors = {name: info for name, info in tensors.items() if not name.endswith(IGNORED_SUFFIXES)}
    return SourceModel(str(model), folder, config, backbone, tensors, tuple(notes), hub_id)


def locate(model: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The folder that holds the checkpoint, and its Hub id if it came from there.

    Raises:
        UserError: no such folder, and the Hub has no such model or can't be reached.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path, None
    name = str(model)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        rule = "is not a folder" if path.exists() else "does not exist"
        raise UserError("can't read the model", [Problem("model", name, rule, "a folder or a Hub id")])
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns)), name
    except Exception as error:  # network, authentication, no such model: many classes, one meaning here
        reason = f"is no folder here, and the Hub gave {type(error).__name__}"
        first = str(error).strip().split("\n", 1)[0]
        hint = "without network give the folder of a downloaded model; a gated one needs `hf auth login`"
        raise UserError(
            "can't read the model", [Problem("model", name, f"{reason}: {first[:160]}", hint)]
        ) from error


def _read_json(path: Path, model: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        problem = Problem(path.name, None, "is missing", f"{path.parent} is no Hugging Face model folder")
        raise UserError(f"{model}: can't be read", [problem]) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{model}: can't be read", [Problem(path.name, None, f"is broken: {error}")]
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{model}: can't be read", [Problem(path.name, None, "must hold an object")])
    return data


def _weight_files(folder: Path, problems: Problems) -> list[Path]:
    if (folder / INDEX).is_file():
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            names = sorted(set(index["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            problems.add(INDEX, None, f"is broken: {type(error).__name__}: {error}")
            return []
        for name in names:
            if not (folder / name).is_file() or Path(name).name != name:
                problems.add(name, None, f"is missing, {INDEX} names it")
        return [folder / name for name in names if (folder / name).is_file() and Path(name).name == name]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    pickles = sorted(item.name for item in folder.iterdir() if item.suffix in _PICKLES)
    if pickles:
        hint = "a pickle can run code when it is opened; save the model again as safetensors"
        problems.add(", ".join(pickles), None, "pickle checkpoints are not read, only safetensors", hint)
    else:
        problems.add(SINGLE, None, "is missing", f"no weights in {folder}")
    return []


def _read_headers(files: list[Path], problems: Problems) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    view = opened.get_slice(name)
                    dtype = _DTYPES.get(view.get_dtype())
                    if dtype is None and not name.endswith(IGNORED_SUFFIXES):
                        problems.add(
                            name, view.get_dtype(), "is not a floating-point tensor of 16 bits or more",
                            "quantised checkpoints can't be rewritten",
                        )  # fmt: skip
                    tensors[name] = TensorInfo(file, tuple(view.get_shape()), dtype or torch.float32)
        except (SafetensorError, OSError) as error:
            problems.add(file.name, None, f"is not a readable safetensors file: {error}")
    return tensors


def needed_tensors(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Checkpoint name -> shape of every tensor that a model of this backbone has."""
    from surgery.model import HybridLM

    with torch.device("meta"):
        model = HybridLM(Architecture(backbone))
    found = {}
    for name, tensor in model.state_dict().items():
        theirs = source_name(name)
        assert theirs is not None, name
        found[theirs] = tuple(tensor.shape)
    if backbone.tie_embeddings:
        del found["lm_head.weight"]
    return found


def _check_tensors(backbone: Backbone, tensors: dict[str, TensorInfo], problems: Problems) -> None:
    needed = needed_tensors(backbone)
    if not tensors and problems:
        return  # no file could be read: that has been said
    allowed = {*needed, *(["lm_head.weight"] if backbone.tie_embeddings else [])}
    missing = [name for name in needed if name not in tensors]
    for names in by_layers(missing):
        problems.add(names, None, "is missing")
    for name, shape in needed.items():
        info = tensors.get(name)
        if info is not None and info.shape != shape:
            problems.add(name, list(info.shape), f"must have shape {list(shape)}, by config.json")
    unexpected = [n for n in tensors if n not in allowed and not n.endswith(IGNORED_SUFFIXES)]
    for names in by_layers(unexpected):
        problems.add(names, None, "is unexpected: this family has no such tensor")


def by_layers(names: Iterable[str]) -> list[str]:
    """Every name once, those that differ only in the layer on one line: `model.layers.[0-3,7].mlp...`."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name in names:
        match = _LAYER.match(name)
        key = (match[1], match[3]) if match else (name, "")
        groups.setdefault(key, []).append(int(match[2]) if match else -1)
    lines = []
    for (head, tail), layers in groups.items():
        if layers == [-1]:
            lines.append(head)
        else:
            where = write_layers(tuple(sorted(layers)), len(layers) + max(layers) + 1)
            lines.append(f"{head}{where if len(layers) == 1 else f'[{where}]'}{tail}")
    return lines
