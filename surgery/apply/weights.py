"""The weight files of a model folder: selection as in transformers, and their contents."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from surgery.apply.names import by_layers
from surgery.config.json_source import kind_of, try_object
from surgery.config.problems import Problem, Problems

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"
EXPLICIT = "transformers_weights"  # the field of config.json that names another file
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_VARIANT = re.compile(r"model\.([\w-]+)(-\d{5}-of-\d{5})?\.safetensors")
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class TensorInfo:
    """Location, shape and dtype of a tensor: rows of a stored one, times a factor, plus an offset."""

    file: Path
    stored: str  # its name in the file
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: tuple[tuple[int, int], ...] | None = None  # spans (first, one after the last) in order; None: all
    factor: float = 1.0
    offset: float = 0.0
    more: tuple[TensorInfo, ...] = ()  # stored ones that are joined behind it before rows are chosen

    def read(self, opened: safe_open) -> Tensor:
        """Read the tensor from its opened file. Products and sums are rounded to the stored dtype."""
        view = opened.get_slice(self.stored)
        if self.more:
            view = torch.cat([view[:], *(other.open() for other in self.more)])
        spans = [view[start:stop] for start, stop in self.rows] if self.rows is not None else [view[:]]
        tensor: Tensor = spans[0] if len(spans) == 1 else torch.cat(spans)
        if (self.factor, self.offset) == (1, 0):
            return tensor
        return (tensor.double() * self.factor + self.offset).to(self.dtype)

    def open(self) -> Tensor:
        """Open the tensor's file, and read it."""
        with safe_open(self.file, framework="pt") as opened:
            return self.read(opened)


def find_weights(folder: Path, config: Mapping[str, Any], problems: Problems, notes: list[str]) -> list[Path]:
    """Return the files that transformers would read: a single file if there is one, else those of an index.

    Other weight files are listed in `notes`. Folders with an adapter, pickles or weights of another format
    are problems.
    """
    if (folder / ADAPTER).is_file():
        problems.add(
            ADAPTER, None, "is an adapter (PEFT): the weights next to it are not the whole model",
            "load it with peft and save `model.merge_and_unload().save_pretrained(FOLDER)`",
        )  # fmt: skip
        return []
    present = _list(folder, problems)
    if any(_DISTRIBUTED.fullmatch(name) for name in present):
        rule = "is a part of a distributed checkpoint"
        first = next(name for name in present if _DISTRIBUTED.fullmatch(name))
        problems.add(first, None, rule, "load it with transformers and save it with `save_pretrained`")
        return []
    name = config.get(EXPLICIT)
    if name is None:
        name = SINGLE if (folder / SINGLE).is_file() else INDEX
    if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
        problems.add(EXPLICIT, name, "must name a .safetensors file or its index", "leave it out")
        return []
    if _leads_out(name):
        problems.add(EXPLICIT, name, "leads out of the folder", "name a file in it, or leave it out")
        return []
    if not (folder / name).is_file():
        problems.entries.append(_explain_absence(folder, present, name if EXPLICIT in config else SINGLE))
        return []
    index = name.endswith(".json")
    files = _read_index(folder, name, problems) if index else [folder / name]
    read = {file.name for file in files} | {name}
    other = [
        item for item in present if item not in read and item.endswith((".safetensors", INDEX, *PICKLES))
    ]
    if other and files:
        notes.append(f"{_some(other)}: not read, as in transformers, which takes {name}")
    return files


def _list(folder: Path, problems: Problems) -> list[str]:
    try:
        return sorted(item.name for item in folder.iterdir())
    except OSError as error:
        problems.add(str(folder), None, error.strerror or str(error))
        return []


def _leads_out(name: str) -> bool:
    return PurePath(name).is_absolute() or ".." in PurePath(name).parts


def _read_index(folder: Path, name: str, problems: Problems) -> list[Path]:
    """Return the shards that an index lists, in transformers' reading order."""
    index = try_object(folder / name, problems)
    if index is None:
        return []
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        shown = "nothing" if not weight_map else kind_of(weight_map)
        problems.add(f"{name}: weight_map", shown, "must be an object of tensor names and files")
        return []
    wrong = [(tensor, file) for tensor, file in weight_map.items() if not isinstance(file, str) or not file]
    for tensor, file in wrong[:10]:
        problems.add(f"{name}: {tensor}", file, "must be the name of a file")
    files = []
    for shard in sorted({file for file in weight_map.values() if isinstance(file, str) and file}):
        if _leads_out(shard):
            problems.add(f"{name}: weight_map", shard, "leads out of the folder")
        elif not shard.endswith(".safetensors"):
            problems.add(f"{name}: weight_map", shard, "is not a .safetensors file")
        elif not (folder / shard).is_file():
            problems.add(shard, None, f"is missing, {name} names it", "download the model again")
        else:
            files.append(folder / shard)
    return files


def _explain_absence(folder: Path, present: list[str], wanted: str) -> Problem:
    """Return a problem that explains missing weights by the folder's other contents."""
    variants = [name for name in present if _VARIANT.fullmatch(name)]
    if pickles := [name for name in present if name.endswith(PICKLES)]:
        hint = "a pickle can run code when it is opened; save the model again as safetensors"
        return Problem(_some(pickles), None, "pickle checkpoints are not read, only safetensors", hint)
    if variants:
        rule = "is a variant, which transformers reads only on request"
        return Problem(_some(variants), None, rule, f"rename it to {wanted}")
    if ggufs := [name for name in present if name.endswith(".gguf")]:
        return Problem(_some(ggufs), None, "GGUF files are not read", "start from the safetensors checkpoint")
    if others := [name for name in present if name.endswith(".safetensors")]:
        if wanted == SINGLE and all(re.search(r"-\d{5}-of-\d{5}", name) for name in others):
            rule = f"is missing, without which its {len(others)} shards are not read"
            return Problem(INDEX, None, rule, "download the model again")
        rule = f"is not a name that transformers looks for; {wanted} is missing"
        hint = "such as consolidated.safetensors: save the model with transformers' `save_pretrained`"
        return Problem(_some(others), None, rule, hint)
    if inside := _folders_with_weights(folder):
        return Problem(wanted, None, f"is missing; there are weights in {inside}", f"give {inside}")
    return Problem(wanted, None, "is missing", f"no weights in {folder}")


def _folders_with_weights(folder: Path) -> Path | None:
    """Return a subfolder with a checkpoint, such as a snapshot in the Hub's cache."""
    for pattern in ("*", "snapshots/*"):
        for inside in sorted(folder.glob(pattern)):
            if any((inside / name).is_file() for name in (SINGLE, INDEX)):
                return inside
    return None


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def read_headers(
    files: Iterable[Path], ignored: tuple[str, ...], problems: Problems, notes: list[str]
) -> dict[str, TensorInfo]:
    """Return the tensors of the files by their stored names; if several files have a name, the last counts.

    Args:
        files: safetensors files.
        ignored: suffixes of names to omit.
        problems: receives unreadable files and unsupported dtypes.
        notes: receives notes on names in several files.
    """
    tensors: dict[str, TensorInfo] = {}
    unusable: dict[str, list[str]] = {}
    twice: dict[tuple[str, str], list[str]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    if name.endswith(ignored):
                        continue
                    view = opened.get_slice(name)
                    kind = view.get_dtype()
                    if kind not in _DTYPES:
                        unusable.setdefault(kind, []).append(name)
                    if name in tensors:
                        twice.setdefault((tensors[name].file.name, file.name), []).append(name)
                    shape = tuple(view.get_shape())
                    tensors[name] = TensorInfo(file, name, shape, _DTYPES.get(kind, torch.float32))
        except (SafetensorError, OSError) as error:
            problems.entries.append(_explain_file(file, error))
    for (first, last), names in twice.items():
        lines = _some(by_layers(names))
        notes.append(f"{lines}: in {first} and in {last}; the latter's numbers are taken, as in transformers")
    for kind, names in unusable.items():
        for line in by_layers(names):
            problems.add(
                line, kind, "is not a floating-point tensor of 16 bits or more",
                "quantised checkpoints can't be rewritten",
            )  # fmt: skip
    return tensors


def check_files(files: Iterable[Path], problems: Problems) -> None:
    """Add a problem for each file that is no safetensors file."""
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            problems.entries.append(_explain_file(file, error))


def _explain_file(file: Path, error: Exception) -> Problem:
    try:
        with open(file, "rb") as opened:
            start = opened.read(len(_POINTER))
        size = os.path.getsize(file)
    except OSError as unreadable:
        reason = unreadable.strerror or str(unreadable)
        return Problem(file.name, None, f"is not a readable safetensors file: {reason}")
    if start == _POINTER:
        return Problem(file.name, None, "is a Git LFS pointer, not the weights", "run `git lfs pull` there")
    hint = "it is empty: download it again" if not size else "download it again if it was cut short"
    return Problem(file.name, None, f"is not a readable safetensors file: {error}", hint)
