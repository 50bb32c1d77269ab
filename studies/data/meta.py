"""Schema of a prepared folder's `meta.json`: every field that is read from it, with its type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TEXT, _COUNT, _FLAG, _LIST = (str,), (int,), (bool,), (list,)
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "corpus": {
        "spec": _TEXT, "name": _TEXT, "source": _TEXT, "licence": _TEXT, "column": _TEXT, "exhausted": _FLAG,
        "ignored_files": _LIST,
    },
    "tokenizer": {"spec": _TEXT, "hash": _TEXT, "vocab_size": _COUNT, "eos_id": _COUNT},
    "request": {"val_fraction": (int, float), "max_tokens": (int, type(None))},
    "train": {"tokens": _COUNT, "documents": _COUNT, "bytes": _COUNT, "shards": _LIST},
    "val": {"tokens": _COUNT, "documents": _COUNT, "bytes": _COUNT, "shards": _LIST},
}  # fmt: skip
_SHARD = {
    "file": _TEXT, "tokens": _COUNT, "documents": _COUNT, "bytes": _COUNT, "sha256": _TEXT,
    "bytes_file": _TEXT, "bytes_sha256": _TEXT,
}  # fmt: skip


def broken_fields(meta: dict[str, Any]) -> list[str]:
    """Return the missing or mistyped fields, such as `train.tokens must be int`; empty if there are none."""
    faults = [
        f"{section}.{rule}"
        for section, fields in _FIELDS.items()
        for rule in _check(meta.get(section), fields)
    ]
    if not isinstance(meta.get("content_hash"), str):
        faults.append("content_hash must be str")
    if faults:
        return faults
    if any(not isinstance(name, str) for name in meta["corpus"]["ignored_files"]):
        faults.append("corpus.ignored_files must be names")
    if not 1 <= meta["tokenizer"]["vocab_size"] <= 2**32:
        faults.append("tokenizer.vocab_size must be from 1 to 2**32")
    for split in ("train", "val"):
        for index, shard in enumerate(meta[split]["shards"]):
            where = f"{split}.shards[{index}]"
            faults += [f"{where}.{rule}" for rule in _check(shard, _SHARD)]
            if isinstance(shard, dict) and set(shard) - set(_SHARD):
                faults.append(f"{where} has unknown fields")
    if faults:
        return faults
    for split in ("train", "val"):
        shards = meta[split]["shards"]
        faults += [
            f"{split}.shards names {name}, which is no file name"
            for shard in shards
            for name in (shard["file"], shard["bytes_file"])
            if Path(name).name != name
        ]
        if meta[split]["tokens"] < 2:
            faults.append(f"{split}.tokens must be at least 2")
    return faults


def _check(value: object, fields: Mapping[str, tuple[type, ...]]) -> list[str]:
    if not isinstance(value, dict):
        return [f"{next(iter(fields))} is missing"]
    faults = []
    for name, kinds in fields.items():
        item = value.get(name)
        right = isinstance(item, kinds) and (bool in kinds or not isinstance(item, bool))
        if not right or (kinds == _COUNT and item < 0):  # type: ignore[operator]
            faults.append(f"{name} must be {' or '.join(kind.__name__ for kind in kinds)}")
    return faults
