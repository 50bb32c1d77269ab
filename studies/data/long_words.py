"""Cutting words that are too long to train a BPE on.

A merge of byte pairs takes time in proportion to the words that contain the pair, and a random word of
400,000 characters contains every pair: each of thousands of merges would scan all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MAX_WORD = 256  # characters; the longest words of natural languages and code have far fewer

# Runs that byte-level pre-tokenizers (GPT-2's and its successors') keep together: letters, digits, other
# characters, or whitespace.
_KINDS = (r"[^\W\d_]", r"\d", r"(?:[^\w\s]|_)", r"\s")
_LONG = re.compile("|".join(f"{kind}{{{MAX_WORD + 1},}}" for kind in _KINDS))


class ShortWords:
    """Texts with every word of more than `MAX_WORD` characters cut into pieces.

    A cut ends the yielded text, so that no character is added and no merge spans a cut. Texts without such
    words are yielded unchanged.

    Attributes:
        cut: number of long words so far.
        longest: characters of the longest one.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.cut = 0
        self.longest = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            start = 0
            for match in _LONG.finditer(text):
                self.cut += 1
                self.longest = max(self.longest, len(match[0]))
                for end in range(match.start() + MAX_WORD, match.end(), MAX_WORD):
                    yield text[start:end]
                    start = end
            if start < len(text):
                yield text[start:]
