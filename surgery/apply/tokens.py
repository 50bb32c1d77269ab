"""Checks of a checkpoint's special tokens and tokenizer against the rows of its embedding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.config.problems import Problems, UserError
from surgery.hf.tokenizer import FAST, RESIZE, check_tokenizer_files, find_rowless, load_tokenizer

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def usable_ids(settings: Mapping[str, Any], rows: int, file: str, notes: list[str]) -> dict[str, Any]:
    """Return the settings without special tokens that have no row in the embedding.

    Args:
        settings: contents of the file.
        rows: rows of the embedding.
        file: name of the file that holds the settings.
        notes: receives a note on each removed token.
    """
    kept = dict(settings)
    for name in SPECIAL:
        given = settings.get(name)
        ids = given if isinstance(given, list) else [] if given is None else [given]
        good = [item for item in ids if _is_row(item, rows)]
        if len(good) == len(ids):
            continue
        bad = ", ".join(str(item) for item in ids if not _is_row(item, rows))
        notes.append(f"{file}: {name} {bad} has no effect: the model's tokens are 0 to {rows - 1}")
        del kept[name]
        if good:
            kept[name] = good
    return kept


def _is_row(item: object, rows: int) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < rows


def check_tokenizer(folder: Path, rows: int, problems: Problems) -> list[str]:
    """Check the tokenizer of a model folder; returns notes.

    Ordinary tokens without a row are a problem: the tokenizer belongs to another model. Added tokens without
    a row, and a tokenizer that can't be loaded here, are only noted, since the surgery does not need them.
    """
    before = len(problems.entries)
    check_tokenizer_files(folder, problems)
    if len(problems.entries) > before:
        return []
    try:
        tokenizer = load_tokenizer(folder)
    except UserError as error:
        if (folder / FAST).is_file() and not any("code of its own" in item.rule for item in error.problems):
            problems.entries.extend(error.problems)
            return []
        return [f"{problem}; its files are copied as they are" for problem in error.problems]
    rowless = find_rowless(tokenizer, rows)
    if rowless.ordinary:
        hint = "put the model's own tokenizer next to it, or remove the tokenizer's files"
        problems.add("tokenizer", None, str(rowless), hint)
        return []
    return [f"tokenizer: {rowless}; a text with it can't be used. {RESIZE}"] if rowless else []
