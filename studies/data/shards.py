"""Token shards: flat little-endian files of token ids, their `meta.json`, and sequences cut from them.

train-00000.bin, train-00001.bin, ...     uint16 (vocabularies up to 65,536) or uint32
val-00000.bin, ...                        likewise, held out
val-00000.bytes, ...                      uint32: bytes of text each token of the val shard stands for
tokenizer/                                tokenizer.json, tokenizer_config.json
meta.json                                 written last: without it the folder is not finished
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from studies.data.meta import broken_fields
from studies.files.json_file import read_json
from surgery.config.problems import Problem, Problems, UserError
from surgery.files.atomic import TEMPORARY, publish

FORMAT = "nas-tokens"
FORMAT_VERSION = 1
META = "meta.json"
PROGRESS = "progress.json"  # instead of meta.json while the preparation is not finished
TOKENIZER = "tokenizer"
BYTES_DTYPE = np.dtype("<u4")

Split = Literal["train", "val"]

_SHARD = r"(train|val)-\d{5}\.(bin|bytes)"
_OWN = re.compile(rf"({_SHARD}|{PROGRESS}|{TOKENIZER})({TEMPORARY})?|{META}{TEMPORARY}")


def is_own(name: str) -> bool:
    """Return whether an unfinished preparation writes a file or folder of this name."""
    return _OWN.fullmatch(name) is not None


def read_state(path: Path) -> dict[str, Any] | None:
    """Return the object in META or PROGRESS of a folder; None if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    return read_json(path, "remove the folder and prepare again")


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest unsigned dtype, uint16 or uint32, for token ids."""
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


@dataclass(frozen=True)
class Shard:
    """One file of tokens for `bytes` bytes of UTF-8 text; `bytes_file` has the bytes per token (val only)."""

    file: str
    tokens: int
    documents: int
    bytes: int
    sha256: str
    bytes_file: str = ""
    bytes_sha256: str = ""


class ShardWriter:
    """Writer of documents to temporary files that become a shard on `commit`, else are deleted."""

    def __init__(self, folder: Path, stem: str, dtype: np.dtype[Any], *, with_bytes: bool) -> None:
        self.folder, self.stem, self.dtype = folder, stem, dtype
        self.tokens = self.documents = self.bytes = 0
        suffixes = [".bin", ".bytes"] if with_bytes else [".bin"]
        self._paths = [folder / (stem + suffix) for suffix in suffixes]
        self._streams = [path.with_name(path.name + TEMPORARY).open("wb") for path in self._paths]
        self._digests = [hashlib.sha256() for _ in suffixes]

    def write(
        self, ids: NDArray[np.int64], text_bytes: int, token_bytes: NDArray[np.int64] | None = None
    ) -> None:
        """Write one document, its end-of-text token included."""
        arrays = [ids.astype(self.dtype)] + ([] if token_bytes is None else [token_bytes.astype(BYTES_DTYPE)])
        for array, stream, digest in zip(arrays, self._streams, self._digests, strict=True):
            data = array.tobytes()
            stream.write(data)
            digest.update(data)
        self.tokens += len(ids)
        self.documents += 1
        self.bytes += text_bytes

    def commit(self) -> Shard | None:
        """Rename the files to their final names; returns None, without files, if nothing was written."""
        for stream in self._streams:
            stream.close()
        if not self.tokens:
            return None
        for path in self._paths:
            publish(path.with_name(path.name + TEMPORARY), path)
        names = [path.name for path in self._paths] + [""]
        hashes = [digest.hexdigest() for digest in self._digests] + [""]
        return Shard(names[0], self.tokens, self.documents, self.bytes, hashes[0], names[1], hashes[1])

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for path, stream in zip(self._paths, self._streams, strict=True):
            with suppress(OSError):  # closing flushes, which fails again on a full disk
                stream.close()
            path.with_name(path.name + TEMPORARY).unlink(missing_ok=True)


class TokenView:
    """The shards of a split as one array; slices are copied only where they span two shards."""

    def __init__(self, arrays: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._arrays = list(arrays)
        self._starts = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, int):
            position = key + len(self) if key < 0 else key
            if not 0 <= position < len(self):
                raise IndexError(key)
            return self[position : position + 1][0]
        start, stop, step = key.indices(len(self))
        if step != 1:
            return self[:][key]
        pieces: list[NDArray[Any]] = []
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            low = int(self._starts[shard])
            pieces.append(self._arrays[shard][start - low : stop - low])
            start = min(stop, int(self._starts[shard + 1]))
            shard += 1
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.zeros(0, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[:], dtype=dtype)


class TokenData:
    """A prepared folder, ready to read; `TokenData.open` and `prepare` return one."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder = folder
        self.meta = meta
        self.vocab_size: int = meta["tokenizer"]["vocab_size"]
        self.eos_id: int = meta["tokenizer"]["eos_id"]
        self.tokenizer_dir = folder / TOKENIZER
        self.content_hash: str = meta["content_hash"]
        self._dtype = token_dtype(self.vocab_size)
        self._views: dict[str, TokenView] = {}

    def warnings(self) -> list[str]:
        """Return warnings about unexpected changes to the text."""
        from studies.data.long_words import MAX_WORD
        from studies.data.tokenizers import cut_words

        count, longest = cut_words(self.tokenizer_dir)
        if not count:
            return []
        return [
            f"{count:,} words of more than {MAX_WORD} characters (the longest: {longest:,}) were cut into "
            "pieces to train the tokenizer; is that text?"
        ]

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> TokenData:
        """Open a prepared folder after checking that every file exists with its full size.

        Args:
            verify: also hash all files again.

        Raises:
            UserError: not a prepared folder, not finished, truncated or changed.
        """
        folder = Path(folder)
        meta = read_state(folder / META)
        title = "This prepared data can't be used"
        if meta is None:
            rule = "its preparation is not finished" if (folder / PROGRESS).exists() else "holds no meta.json"
            raise UserError(title, [Problem("data", str(folder), rule, "run `nas data prepare` (again)")])
        if meta.get("format") != FORMAT or meta.get("version") != FORMAT_VERSION:
            rule = (
                f"must be {FORMAT} version {FORMAT_VERSION}, not {meta.get('format')} {meta.get('version')}"
            )
            raise UserError(
                title, [Problem("data", str(folder / META), rule, "prepare it again in a new folder")]
            )
        problems = Problems()
        if broken := broken_fields(meta):
            rule = f"is damaged: {', '.join(broken)}"
            problem = Problem("data", str(folder / META), rule, "remove the folder and prepare it again")
            raise UserError(title, [problem])
        data = cls(folder, meta)
        for split in ("train", "val"):
            shards = [Shard(**entry) for entry in meta[split]["shards"]]
            for shard in shards:
                data._check(shard, verify, problems)
            if meta[split] != summary(shards):
                problems.add("data", str(folder / META), f"{split}: its counts are not those of its shards")
        if content_hash(meta) != meta["content_hash"]:
            problems.add("data", str(folder / META), "its content_hash is not that of the shards it lists")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (data.tokenizer_dir / name).is_file():
                problems.add("data", str(data.tokenizer_dir / name), "is missing", "prepare the data again")
        problems.raise_if_any(title)
        return data

    def _check(self, shard: Shard, verify: bool, problems: Problems) -> None:
        for name, width, expected in (
            (shard.file, self._dtype.itemsize, shard.sha256),
            (shard.bytes_file, BYTES_DTYPE.itemsize, shard.bytes_sha256),
        ):
            if not name:
                continue
            path = self.folder / name
            hint = "remove the folder and prepare it again"
            if not path.is_file():
                problems.add("data", str(path), "is missing", hint)
            elif path.stat().st_size != shard.tokens * width:
                rule = f"has {path.stat().st_size:,} bytes, must have {shard.tokens * width:,}"
                problems.add("data", str(path), rule, hint)
            elif verify and hash_file(path) != expected:
                problems.add("data", str(path), "its content has changed (sha256 differs)", hint)

    def tokens(self, split: Split) -> TokenView:
        """Return all tokens of a split as one array-like view of memory maps."""
        return self._view(split, "file", self._dtype)

    def num_sequences(self, split: Split, seq_len: int) -> int:
        """Return the number of full sequences of `seq_len` inputs in a split."""
        return max(0, len(self.tokens(split)) - 1) // seq_len

    def batch(
        self, indices: Sequence[int] | NDArray[np.integer[Any]], seq_len: int, split: Split = "train"
    ) -> NDArray[np.int64]:
        """Return sequences by index, (len(indices), seq_len + 1): inputs are [:, :-1], targets [:, 1:].

        Sequence i has the tokens [i * seq_len, (i + 1) * seq_len]: its last target is the first input of the
        next sequence, so every token but the first of the split is a target exactly once.

        Raises:
            IndexError: there is no such sequence.
        """
        tokens = self.tokens(split)
        count = self.num_sequences(split, seq_len)
        rows = np.empty((len(indices), seq_len + 1), dtype=np.int64)
        for row, index in enumerate(indices):
            if not 0 <= index < count:
                raise IndexError(f"sequence {index} of {count}")
            start = int(index) * seq_len
            rows[row] = tokens[start : start + seq_len + 1]
        return rows

    def val_bytes(self, start: int, stop: int) -> int:
        """Return the UTF-8 bytes of text of the val tokens [start, stop); an end-of-text token has none.

        Bits/byte of sequences whose targets are these tokens is their summed loss / ln 2 / this number.
        """
        view = self._view("val", "bytes_file", BYTES_DTYPE)
        return int(np.sum(view[start:stop], dtype=np.int64))

    def _view(self, split: Split, which: str, dtype: np.dtype[Any]) -> TokenView:
        if split not in ("train", "val"):
            raise ValueError(f"split must be train or val, not {split!r}")
        key = f"{split}/{which}"
        if key not in self._views:
            paths = [self.folder / shard[which] for shard in self.meta[split]["shards"]]
            self._views[key] = TokenView([np.memmap(path, dtype=dtype, mode="r") for path in paths], dtype)
        return self._views[key]


def content_hash(meta: dict[str, Any]) -> str:
    """Return one hash of the tokenizer and all shards; equal hashes mean equal training data."""
    shards = [
        [shard["sha256"], shard["bytes_sha256"]]
        for split in ("train", "val")
        for shard in meta[split]["shards"]
    ]
    content = [FORMAT_VERSION, meta["tokenizer"]["hash"], meta["tokenizer"]["vocab_size"], shards]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def summary(shards: Sequence[Shard]) -> dict[str, Any]:
    """Return the section of `meta.json` about one split."""
    return {
        "tokens": sum(shard.tokens for shard in shards),
        "documents": sum(shard.documents for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
        "shards": [asdict(shard) for shard in shards],
    }


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
