"""`prepare`: corpus -> tokenizer -> shards, once per distinct request."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from studies.data.corpora import open_corpus
from studies.data.parts import Preparation, Progress
from studies.data.request import default_val_fraction, folder_name
from studies.data.shards import FORMAT_VERSION, META, PROGRESS, TOKENIZER, TokenData, is_own, read_state
from studies.data.tokenizers import canonical_spec
from studies.data.writing import writing
from studies.files.folder_lock import LOCK, locked
from studies.files.home import data_home
from surgery.config.paths import expand
from surgery.config.problems import Problem, Problems, UserError
from surgery.files.atomic import TEMPORARY

SHARD_TOKENS = 2**26
MIN_VAL_TOKENS = 2**15


def prepare(
    spec: str,
    tokenizer: str = "bpe:4096",
    out_dir: str | Path | None = None,
    *,
    max_tokens: int | None = None,
    progress: Progress | None = None,
    val_fraction: float | None = None,
    min_val_tokens: int = MIN_VAL_TOKENS,
    shard_tokens: int = SHARD_TOKENS,
    column: str | None = None,
) -> TokenData:
    """Tokenize a corpus into shards, resuming an interrupted preparation and reusing a finished one.

    Args:
        spec: a corpus, see `studies.data.corpora`.
        tokenizer: `bpe:SIZE` or a Hugging Face tokenizer.
        out_dir: by default a folder below `data_home()` named after the request.
        max_tokens: train tokens; the document that reaches this number is the last. None: the whole corpus.
        progress: called with (documents read, train tokens, max_tokens or None) every few hundred documents.
        val_fraction: held-out share of the documents; by default 2 %, up to 10 % of a small corpus on disk.
        min_val_tokens: after `max_tokens`, reading continues until this many are held out (or the end).
        shard_tokens: a shard ends with the document that reaches this size.
        column: of the text, `text` by default.

    Raises:
        UserError: the corpus, the tokenizer or the folder can't be used; the hint says how to fix it.
    """
    problems = Problems()
    if max_tokens is not None and max_tokens < 1:
        problems.add("max_tokens", max_tokens, "must be at least 1", "leave it out for the whole corpus")
    if val_fraction is not None and not 0 < val_fraction <= 0.5:
        problems.add("val_fraction", val_fraction, "must be more than 0 and at most 0.5")
    if shard_tokens < 1:
        problems.add("shard_tokens", shard_tokens, "must be at least 1")
    problems.raise_if_any("Can't prepare this data")

    corpus = open_corpus(spec, column)
    request = {
        "corpus": corpus.spec,
        "corpus_fingerprint": corpus.fingerprint(),
        "tokenizer": canonical_spec(tokenizer),
        "max_tokens": max_tokens,
        "val_fraction": val_fraction or default_val_fraction(corpus),
        "min_val_tokens": min_val_tokens,
        "shard_tokens": shard_tokens,
        "version": FORMAT_VERSION,
    }
    folder = expand(out_dir) if out_dir is not None else data_home() / folder_name(corpus, request)
    with writing(folder):
        if (done := finished(folder, request)) is not None:
            return done
        missing = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
        with locked(folder):
            if (done := finished(folder, request)) is not None:
                return done  # another process did it while this one waited
            try:
                return Preparation(folder, corpus, tokenizer, request).run(progress)
            except Exception:
                if not (read_state(folder / PROGRESS) or {}).get("parts"):
                    _clear(folder, missing)
                raise


def _clear(folder: Path, made: list[Path]) -> None:
    """Remove the files of a failed run that finished no part.

    Args:
        made: folders that the run created, from the innermost; one that is not empty stays.
    """
    shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
    for path in list(folder.iterdir()):
        if path.name == LOCK or is_own(path.name):
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        for path in made:
            path.rmdir()


def finished(folder: Path, request: dict[str, Any]) -> TokenData | None:
    """Return the data of a finished folder, or None if it is not finished.

    Raises:
        UserError: the folder is finished or begun with other settings, or holds other files.
    """
    state = read_state(folder / META) or read_state(folder / PROGRESS) or {}
    title = "This folder can't take the prepared data"
    if "content_hash" not in state and not state.get("parts"):
        # the first file that a preparation writes holds its request
        begun = isinstance(asked := state.get("request"), dict) and "corpus" in asked
        first = (LOCK, PROGRESS + TEMPORARY)
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        if strange := [name for name in names if name not in first and not (begun and is_own(name))]:
            rule = f"already holds other things ({', '.join(strange[:3])})"
            raise UserError(title, [Problem("out", str(folder), rule, "name a new or empty folder")])
        return None
    problems = Problems()
    earlier = state.get("request")
    for key, value in request.items():
        held = earlier.get(key) if isinstance(earlier, dict) else None
        if held != value:
            problems.add(
                key, value, f"this folder was prepared with {held}", "name another folder, or leave it out"
            )
    problems.raise_if_any(f"{title}: {folder} holds another preparation")
    return TokenData.open(folder) if "content_hash" in state else None
