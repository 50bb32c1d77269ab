"""Request of a preparation: its folder name and its held-out split.

Held-out documents are chosen by the hash of their text alone, so neither their order nor the amount prepared
moves a document from one split to the other.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from studies.data.corpus import Corpus
from surgery.config.quantities import format_count

VAL_FRACTION = 0.02
VAL_TEXT_BYTES = 220_000  # about 50k tokens: small corpora hold out more than 2 % to reach it, at most 10 %


def folder_name(corpus: Corpus, request: dict[str, Any]) -> str:
    """Return a readable folder name that differs between requests, such as `builtin-bpe4096-1a2b3c4d`."""
    tokenizer = Path(request["tokenizer"].partition("#")[0]).name.replace(":", "")
    amount = "" if request["max_tokens"] is None else format_count(request["max_tokens"])
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]
    readable = "-".join(filter(None, [corpus.name, tokenizer, amount, digest]))
    return re.sub(r"[^A-Za-z0-9._-]+", "_", readable)


def default_val_fraction(corpus: Corpus) -> float:
    """Return the default held-out share: 2 %, or more (up to 10 %) if that is less than about 50k tokens."""
    size = corpus.text_bytes()
    return VAL_FRACTION if not size else round(min(0.1, max(VAL_FRACTION, VAL_TEXT_BYTES / size)), 3)


def is_held_out(text: str, fraction: float) -> bool:
    """Return whether a document belongs to the held-out split: a pure function of its text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) < fraction * 2**64
