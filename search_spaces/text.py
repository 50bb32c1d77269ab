"""The training text and tokenizer that a space names. They are only looked for when the corpus is opened."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from surgery.config.options import Cursor
from surgery.config.problems import nearest
from surgery.config.quantities import parse_count

NAMED = ("builtin", "fineweb-edu")
SMALLEST_BPE = 257  # 256 bytes and the end-of-text token


@dataclass(frozen=True)
class Data:
    """Names of the text and its tokenizer.

    Attributes:
        corpus: `builtin`, `fineweb-edu`, `hf:NAME` or a path.
        tokenizer: `bpe:SIZE`, or a Hugging Face tokenizer.
    """

    corpus: str
    tokenizer: str

    def to_dict(self) -> dict[str, str]:
        """Return the section as plain data."""
        return asdict(self)


def read_data(data: object, vocab_size: int | None, cursor: Cursor) -> Data:
    """Read the `data` section. The tokenizer defaults to a BPE of the backbone's vocabulary size."""
    given = cursor.mapping(data, ("corpus", "tokenizer"))
    default = f"bpe:{vocab_size or 4096}"
    corpus = _text(given.get("corpus", "fineweb-edu"), cursor.at("corpus"), "such as builtin or fineweb-edu")
    tokenizer = _text(given.get("tokenizer", default), cursor.at("tokenizer"), "such as bpe:4096")
    plain = corpus.partition(":")[0]
    if corpus and plain not in NAMED and not set(corpus) & set("./:\\") and (hint := nearest(plain, NAMED)):
        cursor.at("corpus").problem(corpus, "is not a named corpus", f"{hint} A path starts with ./")
    if tokenizer.startswith("bpe:"):
        _check_bpe(tokenizer, vocab_size, cursor.at("tokenizer"))
    return Data(corpus, tokenizer)


def _text(value: object, cursor: Cursor, hint: str) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    cursor.problem(value, "must be a name", hint)
    return ""


def _check_bpe(tokenizer: str, vocab_size: int | None, cursor: Cursor) -> None:
    try:
        size = parse_count(tokenizer.removeprefix("bpe:"))
    except ValueError as error:
        cursor.problem(tokenizer, str(error), "write bpe:4096, for example")
        return
    if size < SMALLEST_BPE:
        hint = f"raise it, and vocab_size ({vocab_size}) if that is smaller"
        cursor.problem(tokenizer, f"a byte-level BPE has at least {SMALLEST_BPE} tokens", hint)
    elif vocab_size is not None and size > vocab_size:
        rule = f"has more tokens than the backbone's vocab_size ({vocab_size})"
        cursor.problem(tokenizer, rule, f"write bpe:{vocab_size} or raise vocab_size")
