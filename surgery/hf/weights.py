"""Writing tensors as safetensors files, one tensor in memory at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from math import prod
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards

from surgery.hf.lazy import LazyTensors

SHARD_BYTES = 5 * 10**9
Progress = Callable[[str, int, int], None]  # (stage, done, total)

# safetensors' names of dtypes, in the order of the tensors in a file
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT = 8
_CHUNK = 2**20  # bytes; Linux can take three times as long to find the pages for a larger write


def write_weights(
    tensors: LazyTensors, folder: Path, *, shard_bytes: int | None = None, progress: Progress | None = None
) -> None:
    """Write `model.safetensors`, or shards with an index if one file would be too large.

    Args:
        tensors: by the names in the files.
        folder: where to write.
        shard_bytes: most bytes of tensors in a file, if it holds more than one; None: SHARD_BYTES.
        progress: called with (`writing`, tensors written, all tensors).
    """
    shapes = {name: tensor.meta() for name, tensor in tensors.items()}
    split = split_torch_state_dict_into_shards(shapes, max_shard_size=shard_bytes or SHARD_BYTES)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("writing", done, len(tensors))

    for file, names in split.filename_to_tensors.items():
        _write_file(folder / file, {name: tensors[name] for name in names}, count)
        os.chmod(folder / file, 0o666 & (folder.stat().st_mode & 0o777))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")


def _write_file(path: Path, tensors: LazyTensors, on_written: Callable[[], None]) -> None:
    """Write a file with the bytes of `safetensors.torch.save_file`, which needs all tensors at once.

    The length of the header in 8 bytes, the header as JSON, then the tensors without gaps
    (https://github.com/huggingface/safetensors#format).
    """
    order = list(_DTYPES)
    ordered = sorted(tensors.items(), key=lambda item: (order.index(item[1].dtype), item[0]))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in ordered:
            values = tensor.read().detach().cpu()
            assert (tuple(values.shape), values.dtype) == (tensor.shape, tensor.dtype), name
            data = values.contiguous().reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(data), _CHUNK):
                file.write(data[start : start + _CHUNK])
            on_written()
