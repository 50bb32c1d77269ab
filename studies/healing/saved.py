"""The folder of a running healing, from which the same command resumes it after it was killed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from studies.files.json_file import read_json, write_json
from studies.training.errors import TrainingFailed
from studies.training.validation import Evaluation
from surgery.apply.source import SourceModel
from surgery.config.problems import Problem, UserError
from surgery.files.lock import Lock

KEY, MEASURED, LOCK = "key.json", "measured.json", ".lock"


class Saved:
    """Checkpoints and measurements of one healing, kept until it is done.

    The key describes everything that the healing depends on. A folder with another key is emptied.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        """Describe the folder without touching it."""
        self.path, self.key = path, json.loads(json.dumps(key))
        self._lock = Lock(path / LOCK)

    def __enter__(self) -> Saved:
        """Lock the folder for this process.

        Raises:
            UserError: another process heals into it, or it can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self._lock.acquire(wait=False):
                rule = "is used by another process that heals into the same output"
                raise UserError("can't heal", [Problem("output", str(self.path), rule, "wait for it")])
            if _read(self.path / KEY) != self.key:
                for file in self.path.iterdir():
                    if file.name != LOCK:
                        file.unlink()
                write_json(self.path / KEY, self.key)
        except OSError as error:
            rule = f"can't be written: {error.strerror or error}"
            raise UserError("can't heal", [Problem("output", str(self.path), rule)]) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            fails_again = issubclass(kind, TrainingFailed)
            if fails_again or not any(self.path.glob("*.pt")):  # nothing to resume
                self.remove()
        self._lock.release()

    def checkpoint(self, stage: str) -> Path:
        """Return the file for the state of a training."""
        return self.path / f"{stage}.pt"

    def loss(self, what: str, measure: Callable[[], Evaluation]) -> Evaluation:
        """Return a held-out loss, measured once."""
        return Evaluation(**self._once(what, lambda: asdict(measure())))

    def divergence(self, what: str, measure: Callable[[], float]) -> float:
        """Return a divergence from the original model, measured once."""
        return float(self._once(f"kl {what}", measure))

    def _once(self, what: str, measure: Callable[[], Any]) -> Any:
        known = _read(self.path / MEASURED) or {}
        if what not in known:
            known[what] = measure()
            write_json(self.path / MEASURED, known)
        return known[what]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def weights_hash(source: SourceModel) -> str:
    """Return a hash of the files that hold a model's tensors."""
    digest = hashlib.sha256()
    for file in sorted({info.file for info in source.tensors.values()}):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def short_hash(value: object) -> str:
    """Return a hash of plain JSON data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any] | None:
    """Return a JSON object; None if there is none, or a damaged one."""
    try:
        return read_json(path)
    except UserError:
        return None
