"""Corpora streamed with Hugging Face `datasets`: the Hub, or a dataset folder on disk."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from studies.data.corpus import Corpus, Cursor, text_of
from surgery.config.problems import Problem, UserError

OFFLINE_HINT = "--data builtin needs no network, and neither does a local .jsonl, .parquet or .txt file"


class HubCorpus(Corpus):
    """A streamed `datasets.load_dataset(path, config, split=split)`, read in its own order.

    `data_files` is passed through, so that `path` may also be a file format ("parquet", "json") over local
    files.
    """

    def __init__(
        self,
        path: str,
        config: str | None,
        split: str,
        column: str,
        *,
        name: str = "",
        licence: str = "",
        data_files: str | list[str] | None = None,
    ) -> None:
        self.path, self.config, self.split, self.column = path, config, split, column
        self.data_files = data_files
        full = f"hf:{path}" + (f":{config}" if config else "") + f"@{split}"
        self.spec = full + ("" if column == "text" else f"?column={column}")
        self.name = name or "-".join(
            filter(None, [Path(path).name, config, "" if split == "train" else split])
        )
        self.source = path if Path(path).exists() else f"https://huggingface.co/datasets/{path}"
        self.licence = licence or f"see {self.source}"

    def fingerprint(self) -> str:
        """Return the spec and the files: the Hub's content is not fingerprinted."""
        return f"{self.spec} {self.data_files or ''}"

    def text_bytes(self) -> None:
        """Return None: the size is unknown until all of it has been downloaded."""

    def _open(self, cursor: Cursor) -> tuple[Iterator[str], Callable[[], Cursor]]:
        dataset = self._load()
        read = [int(cursor.get("documents", 0))]
        if cursor.get("state"):
            # The state skips whole files already read instead of downloading them again.
            dataset.load_state_dict(cursor["state"])

        def documents() -> Iterator[str]:
            try:
                for row in dataset:
                    read[0] += 1
                    yield text_of(row, self.column, f"{self.spec}, row {read[0]}")
            except UserError:
                raise
            except Exception as error:
                raise self._refused(error, read[0]) from error

        def position() -> Cursor:
            return {"documents": read[0], "state": dataset.state_dict()} if read[0] else {}

        return documents(), position

    def _load(self) -> Any:
        if not self.data_files and not Path(self.path).exists():
            require_hub("data", self.spec, OFFLINE_HINT)
        import datasets

        # datasets 3 asks on standard input whether to run a dataset's code, unless that is refused
        asks = "trust_remote_code" in signature(datasets.load_dataset).parameters
        refusal = {"trust_remote_code": False} if asks else {}
        try:
            return datasets.load_dataset(
                self.path, self.config, split=self.split, streaming=True, data_files=self.data_files,
                **refusal,
            )  # fmt: skip
        except Exception as error:  # the library and the datasets raise many kinds of errors
            raise self._refused(error, 0) from error

    def _refused(self, error: Exception, documents: int) -> UserError:
        import datasets

        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, datasets.exceptions.DatasetNotFoundError):
            hint = "look the name up at https://huggingface.co/datasets; `hf auth login` opens gated ones"
        elif isinstance(error, OSError):
            hint = (
                f"finished parts are kept: run again to resume. {OFFLINE_HINT}" if documents else OFFLINE_HINT
            )
        else:
            hint = "a corpus is hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG@SPLIT"
        where = f" after {documents:,} documents" if documents else ""
        problem = Problem("data", self.spec, f"can't be read{where}: {reason}", hint)
        return UserError("This corpus can't be read", [problem])


def require_hub(field: str, value: str, hint: str) -> None:
    """Fail immediately if the Hub's name does not resolve; the client would retry for half a minute.

    Raises:
        UserError: no network.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise UserError("No network", [Problem(field, value, "HF_HUB_OFFLINE forbids asking the Hub", hint)])
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname or endpoint, 443)
    except OSError as error:
        rule = f"needs the network, but {endpoint} can't be reached ({error.strerror})"
        raise UserError("No network", [Problem(field, value, rule, hint)]) from error
