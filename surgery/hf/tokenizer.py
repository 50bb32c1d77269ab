"""Loading and checking the tokenizer of a folder, and tokens without a row in a model's embedding."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.config.json_source import try_object
from surgery.config.problems import Problem, Problems, UserError

# files of a tokenizer that must hold JSON objects
OBJECTS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
FAST = "tokenizer.json"
MOST_TOKENS = 2**24  # the largest vocabularies have some 2**18
AGAIN = "copy it again from the model, or remove it"


NO_CODE = "give one that works without, as a tokenizer.json"


def load_tokenizer(
    name: str | os.PathLike[str],
    *,
    trust_remote_code: bool = False,
    local: bool = True,
    code_hint: str = NO_CODE,
) -> Any:
    """Load the tokenizer of a folder or of a Hub id. Never prompts on standard input.

    Args:
        name: a folder or a Hub id.
        trust_remote_code: run the tokenizer's own code.
        local: do not access the Hub.
        code_hint: hint for a tokenizer that needs code which is not trusted.

    Raises:
        UserError: there is no tokenizer, or it can't be loaded.
        OSError, ValueError: `name` is not a folder, and `local` prevented a look-up on the Hub.
    """
    from transformers import AutoTokenizer

    folder = Path(name)
    inside = folder.is_dir()
    problems = Problems()
    check_tokenizer_files(folder, problems)
    problems.raise_if_any("the tokenizer can't be used")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, local_files_only=local, trust_remote_code=trust_remote_code
        )
        tokenizer.decode(tokenizer("a text")["input_ids"])  # some faulty settings fail only in use
        return tokenizer
    except Exception as error:  # transformers raises many kinds for a folder without a usable tokenizer
        if local and not inside and isinstance(error, OSError | ValueError):
            raise
        rule = f"can't be loaded: {' '.join(str(error).split())[:300] or type(error).__name__}"
        hint = "copy the tokenizer's files (tokenizer.json, tokenizer_config.json) into the folder"
        if "trust_remote_code" in str(error):
            rule, hint = "needs code of its own, which is not run", code_hint
        elif not inside:
            hint = "a tokenizer is a Hub name (HuggingFaceTB/SmolLM2-135M) or a folder with tokenizer.json"
        raise UserError(
            "the tokenizer can't be used", [Problem("tokenizer", str(name), rule, hint)]
        ) from error


def check_tokenizer_files(folder: Path, problems: Problems) -> None:
    """Add a problem for each file of a tokenizer that holds no JSON object, and for invalid token ids."""
    for name in OBJECTS:
        try_object(folder / name, problems, AGAIN)
    fast = try_object(folder / FAST, problems, AGAIN)
    if fast is not None:
        _check_ids(fast, problems)


def _check_ids(fast: Mapping[str, Any], problems: Problems) -> None:
    """Add a problem for the first invalid id of `tokenizer.json`.

    The tokenizers library allocates a table up to the largest id, and aborts the process if memory runs out.
    """
    model, added = fast.get("model"), fast.get("added_tokens") or []
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocab.items()) if isinstance(vocab, dict) else []
    if isinstance(added, list):
        ids += [(item.get("content"), item.get("id")) for item in added if isinstance(item, dict)]
    for token, number in ids:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MOST_TOKENS:
            rule = f"the id of {token!r} must be a whole number from 0, below {MOST_TOKENS:,}"
            problems.add(FAST, number, rule, AGAIN)
            return


@dataclass(frozen=True)
class Rowless:
    """Tokens of a tokenizer without a row in a model's embedding, by id.

    Attributes:
        ordinary: tokens of the vocabulary.
        added: tokens added to the vocabulary.
        rows: rows of the embedding.
    """

    ordinary: Mapping[int, str]
    added: Mapping[int, str]
    rows: int

    def __bool__(self) -> bool:
        return bool(self.ordinary or self.added)

    def __str__(self) -> str:
        tokens = {**self.ordinary, **self.added}
        first = min(tokens)
        count = "1 token has" if len(tokens) == 1 else f"{len(tokens):,} tokens have"
        return f"{count} no row in the model, which has {self.rows:,}: such as {tokens[first]!r}, {first}"


RESIZE = "`model.resize_token_embeddings(len(tokenizer))` adds rows"


def find_rowless(tokenizer: Any, rows: int) -> Rowless:
    """Return the tokens without a row in an embedding of `rows` rows."""
    added = set(getattr(tokenizer, "added_tokens_decoder", {}))
    beyond = {number: token for token, number in sorted(tokenizer.get_vocab().items()) if number >= rows}
    return Rowless(
        {number: token for number, token in beyond.items() if number not in added},
        {number: token for number, token in beyond.items() if number in added},
        rows,
    )
