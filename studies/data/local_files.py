"""Corpora on disk: .jsonl, .parquet and .txt files, gzipped or not, alone or as a folder; the built-in text.

A .jsonl line or a .parquet row is a document. A .txt file is cut into documents at lines that hold only
`<|endoftext|>`, and otherwise at the first blank line after 2,000 characters: a book becomes page-sized
documents, so that a held-out part can be taken from it.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from studies.data.corpus import Corpus, Cursor, missing_column, text_of
from surgery.config.json_source import parse_json
from surgery.config.problems import Problem, UserError, printable

SUFFIXES = (".jsonl", ".ndjson", ".parquet", ".txt", ".jsonl.gz", ".ndjson.gz", ".txt.gz")
TEXT_SEPARATOR = "<|endoftext|>"
TEXT_DOCUMENT = 2_000  # characters after which a blank line ends a document
TEXT_LONGEST = 1_000_000  # characters after which any line ends a document
FULLY_HASHED = 64 * 2**20  # bytes: larger files are fingerprinted by size and modification time
GZIP_RATIO = 3  # typical of English


class LocalCorpus(Corpus):
    """A file, or every readable file below a folder in the order of their relative paths."""

    def __init__(self, path: Path, column: str = "text", *, name: str = "", spec: str = "") -> None:
        self.path = path = path.resolve()
        self.column = column
        self.spec = (spec or str(self.path)) + ("" if column == "text" else f"?column={column}")
        self.name = name or path.name.split(".")[0] or "corpus"
        self.source = spec or str(self.path)
        self.licence = "not stated"
        if path.is_dir():
            paths = _files_below(path)
            self.files = [p for p in paths if p.is_file() and p.name.lower().endswith(SUFFIXES)]
            read = set(self.files)
            self.ignored = tuple(printable(str(p.relative_to(path))) for p in paths if p not in read)
        elif path.is_file():
            self.files = [path]
        else:  # reading a pipe or a device may never end, and can't be restarted
            rule = "is neither a file nor a folder"
            raise UserError("This corpus can't be used", [Problem("data", str(path), rule)])
        if not self.files or not self.files[0].name.lower().endswith(SUFFIXES):
            hint = f"readable are {', '.join(SUFFIXES)}"
            rule = "holds no file that can be read" if path.is_dir() else "has an unknown file extension"
            raise UserError("This corpus can't be used", [Problem("data", str(path), rule, hint)])

    def fingerprint(self) -> str:
        """Return a hash of names, sizes and content (of very large files: modification times).

        Raises:
            UserError: a file can't be read.
        """
        digest = hashlib.sha256()
        for file in self.files:
            try:
                status = file.stat()
                relative = file.relative_to(self.path) if self.path.is_dir() else file.name
                digest.update(os.fsencode(relative) + f"\0{status.st_size}\0".encode())
                if status.st_size <= FULLY_HASHED:
                    digest.update(hashlib.sha256(file.read_bytes()).digest())
                else:
                    digest.update(str(status.st_mtime_ns).encode())
            except OSError as error:
                raise _unreadable(file, error) from error
        return digest.hexdigest()

    def text_bytes(self) -> int:
        """Return the approximate bytes of text, from the sizes of the files."""
        return sum(
            p.stat().st_size * (GZIP_RATIO if p.name.endswith((".gz", ".parquet")) else 1) for p in self.files
        )

    def _open(self, cursor: Cursor) -> tuple[Iterator[str], Callable[[], Cursor]]:
        position = {"file": int(cursor.get("file", 0)), "document": int(cursor.get("document", 0))}

        def documents() -> Iterator[str]:
            while position["file"] < len(self.files):
                for number, text in enumerate(read_file(self.files[position["file"]], self.column)):
                    if number >= position["document"]:
                        position["document"] += 1
                        yield text
                position["file"], position["document"] = position["file"] + 1, 0

        return documents(), lambda: dict(position)


def _files_below(folder: Path) -> list[Path]:
    """Return everything below `folder` that is neither a folder nor hidden, sorted by relative path.

    Links to folders are followed, each folder once, so that a link to a parent ends. Broken links are listed
    too, to be reported as ignored.

    Raises:
        UserError: a folder that can't be listed.
    """

    def refuse(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error) from error

    paths: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        paths += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(paths)


def builtin_corpus() -> LocalCorpus:
    """Return the corpus that ships with the package."""
    file = importlib.resources.files("studies.data.builtin") / "python_docs.jsonl.gz"
    with importlib.resources.as_file(file) as path:  # a real file: packages are installed unpacked
        corpus = LocalCorpus(path, name="builtin", spec="builtin")
    corpus.source = "prose of the documentation of Python 3.11.2, https://docs.python.org/3.11/"
    corpus.licence = "PSF License Agreement (studies/data/builtin/LICENSE.txt)"
    return corpus


def read_file(path: Path, column: str) -> Iterator[str]:
    """Yield the documents of one file.

    Raises:
        UserError: unreadable, corrupt, or without the column; names the file and the line or row.
    """
    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            yield from _read_parquet(path, column)
            return
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            yield from _read_txt(path, stream) if name.endswith(".txt") else _read_jsonl(path, stream, column)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _read_jsonl(path: Path, stream: Iterable[bytes], column: str) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:  # includes text that is not UTF-8
            raise _corrupt(f"{path}:{number}", f"is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise _corrupt(f"{path}:{number}", "must be an object with the text in one of its fields")
        yield text_of(row, column, f"{path}:{number}")


def _read_txt(path: Path, stream: Iterable[bytes]) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for number, raw in enumerate(stream, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise _corrupt(f"{path}:{number}", f"is not UTF-8: {error.reason}") from error
        bare = line.strip()
        ends = bare == TEXT_SEPARATOR or (not bare and size >= TEXT_DOCUMENT) or size >= TEXT_LONGEST
        if bare != TEXT_SEPARATOR:
            lines.append(line)
            size += len(line)
        if ends and lines:
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise missing_column(column, file.schema_arrow.names, str(path))
            row = 0
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield text_of({column: value}, column, f"{path}, row {row}")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _corrupt(str(path), f"is not a readable parquet file: {error}") from error


def _corrupt(where: str, rule: str) -> UserError:
    return UserError(
        "This corpus is damaged", [Problem("data", where, rule, "fix or remove it, then run again")]
    )


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return _corrupt(str(path), f"can't be read: {reason}")
