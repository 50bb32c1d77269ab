"""The text that operators are fitted to, and its checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from studies.data import TextTokenizer, TokenData, open_corpus
from studies.data.prepared import is_prepared
from studies.data.request import default_val_fraction, is_held_out
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError

BYTES_PER_TOKEN = 4  # of English text, about


def check_text(data: str, option: str) -> None:
    """Check that a corpus or prepared folder can be opened, without reading its text.

    Raises:
        UserError: no such text; the problem names the option.
    """
    if is_prepared(data):
        return
    try:
        open_corpus(data)
    except UserError as error:
        problems = [replace(problem, field=option) if problem.field == "data" else problem
                    for problem in error.problems]  # fmt: skip
        raise UserError(error.title, problems) from error


def calibration_texts(data: str, tokens: int) -> list[str]:
    """Return the first documents of a corpus that are not held out, up to about `tokens` tokens.

    Raises:
        UserError: no such corpus, or no text in it.
    """
    texts: list[str] = []
    left = tokens * BYTES_PER_TOKEN
    for text in _training_texts(data, tokens):
        texts.append(text.encode()[:left].decode(errors="ignore"))
        left -= len(text.encode())
        if left <= 0:
            break
    if not any(texts):
        raise UserError("can't calibrate", [Problem("--calibrate", data, "holds no text")])
    return texts


def _training_texts(data: str, tokens: int) -> Iterator[str]:
    if is_prepared(data):
        prepared = TokenData.open(expand(data))
        view = prepared.tokens("train")
        yield TextTokenizer.open(prepared.tokenizer_dir).decode(view[:tokens])
        return
    corpus = open_corpus(data)
    fraction = default_val_fraction(corpus)
    yield from (text for text in corpus.texts() if not is_held_out(text, fraction))
