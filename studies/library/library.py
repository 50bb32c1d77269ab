"""The folder of a library: the tensors of each fitted replacement, and an index of them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from search_spaces.library import LibrarySettings
from studies.files.folder_lock import LOCK
from studies.files.home import library_home
from studies.files.json_file import read_json, write_json
from studies.library.entries import Entry
from studies.training.loop import Interrupted
from surgery.architecture import Architecture
from surgery.config.problems import Problem, UserError
from surgery.files.atomic import replacing
from surgery.files.lock import Lock

INDEX, TENSORS = "index.json", "entries"
FORMAT = 1
POLL_SECONDS = 0.2  # between attempts to lock


def library_key(model: Architecture, weights: str, text: str, settings: LibrarySettings) -> dict[str, Any]:
    """Return all that the tensors of a library depend on.

    Args:
        model: the pretrained model.
        weights: fingerprint of its weights.
        text: hash of the text's content.
        settings: of the library; those of scores and evaluations don't matter.
    """
    names = ("fit_tokens", "align_tokens", "seq_len")
    fit = {name: value for name, value in settings.to_dict().items() if name in names}
    return {"format": FORMAT, "model": model.hash, "weights": weights, "text": text, "fit": fit}


def library_folder(key: Mapping[str, Any]) -> Path:
    """Return the folder of the library with this key, below the cache's home."""
    text = json.dumps(key, sort_keys=True)
    return library_home() / hashlib.sha256(text.encode()).hexdigest()[:16]


class Library:
    """Fitted replacements on disk.

    An entry has those tensors of a replacement that are not the model's own; it is in the index as soon as
    its file is complete, so that a killed build leaves a usable folder.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        """Describe the folder; `open` reads it."""
        self.path, self.key = path, dict(key)
        self._index: dict[str, dict[str, Any]] = {}

    @classmethod
    def open(cls, path: Path, key: Mapping[str, Any] | None = None) -> Library:
        """Open a library, or begin one if there is none.

        Args:
            path: its folder.
            key: all that its tensors depend on (`library_key`); None: the folder's own.

        Raises:
            UserError: the folder is damaged, belongs to another key, or can't be written.
        """
        if key is not None:
            wanted = json.loads(json.dumps(key))
            try:
                path.mkdir(parents=True, exist_ok=True)
                if not (path / INDEX).exists():
                    write_json(path / INDEX, {"key": wanted, "entries": {}})
            except OSError as error:
                raise _unusable(path, f"can't be written: {error.strerror or error}") from error
        library = cls(path, {})
        library.refresh()
        if key is not None and library.key != wanted:
            raise _unusable(path, "belongs to another model, text or fit", "give another folder")
        return library

    def refresh(self) -> None:
        """Read the index again, which another process may have extended.

        Raises:
            UserError: there is none, or it is damaged.
        """
        data = read_json(self.path / INDEX)
        if data is None or not isinstance(data.get("entries"), dict) or not isinstance(data.get("key"), dict):
            raise _unusable(self.path, f"has no usable {INDEX}", "remove the folder and build it again")
        self.key, self._index = data["key"], data["entries"]

    @contextmanager
    def lock(self, should_stop: Callable[[], bool]) -> Iterator[None]:
        """Hold the folder in this block, so that no other process extends it, and read the index again.

        Waits for another process that holds it, which may take as long as a whole build.

        Raises:
            Interrupted: `should_stop` returned True meanwhile.
            UserError: the index is damaged.
        """
        lock = Lock(self.path / LOCK)
        while not lock.acquire(wait=False):
            if should_stop():
                raise Interrupted
            time.sleep(POLL_SECONDS)
        try:
            self.refresh()
            yield
        finally:
            lock.release()

    def has(self, entry: Entry) -> bool:
        """Return whether a replacement was fitted."""
        return entry.name in self._index

    def is_aligned(self, entry: Entry) -> bool:
        """Return whether a replacement needs no more alignment."""
        return bool(self._index.get(entry.name, {}).get("aligned"))

    def errors(self, entry: Entry) -> dict[str, float]:
        """Return the relative errors of a replacement's outputs; there are none where nothing was fitted.

        By name: those of the mixer, the feed-forward part or single projections on the text that they were
        fitted to, and after an alignment the distances of the part on held-out text, `fitted` before it and
        `aligned` after it.
        """
        return dict(self._index[entry.name]["errors"])

    def state(self, entry: Entry) -> dict[str, Tensor]:
        """Return the tensors of a replacement that are not the model's own, by their names in the part.

        Raises:
            UserError: the file is missing or damaged.
        """
        assert self.has(entry), f"{entry.name} is not built"
        if not self._index[entry.name]["tensors"]:
            return {}
        try:
            tensors: dict[str, Tensor] = load_file(self._file(entry))
        except (OSError, SafetensorError) as error:
            hint = "remove the library's folder and build it again"
            raise _unusable(self._file(entry), f"can't be read: {error}", hint) from error
        return tensors

    def add(
        self,
        entry: Entry,
        tensors: Mapping[str, Tensor],
        *,
        errors: Mapping[str, float] | None = None,
        aligned: bool = False,
    ) -> None:
        """Write a replacement; one that is there is replaced.

        Args:
            entry: the replacement.
            tensors: what is not the model's own, by names in the part.
            errors: see `errors`; None: those that are known.
            aligned: whether it needs no more alignment.

        Raises:
            UserError: the folder can't be written.
        """
        known = self._index.get(entry.name, {}).get("errors", {})
        try:
            if tensors:
                file = self._file(entry)
                file.parent.mkdir(exist_ok=True)
                contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
                with replacing(file) as temporary:
                    save_file(contiguous, temporary)
            self._index[entry.name] = {
                "label": entry.label,
                "tensors": len(tensors),
                "aligned": aligned or not tensors,
                "errors": dict(known if errors is None else errors),
            }
            write_json(self.path / INDEX, {"key": self.key, "entries": self._index})
        except OSError as error:
            raise _unusable(self.path, f"can't be written: {error.strerror or error}") from error

    def missing(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries that are not built."""
        return [entry for entry in entries if not self.has(entry)]

    def bytes(self) -> int:
        """Return the size of all tensors on disk."""
        return sum(file.stat().st_size for file in (self.path / TENSORS).glob("*.safetensors"))

    def _file(self, entry: Entry) -> Path:
        return self.path / TENSORS / f"{entry.name}.safetensors"


def _unusable(path: Path, rule: str, hint: str = "") -> UserError:
    return UserError("can't use the library", [Problem("library", str(path), rule, hint)])
