"""Meanings of the letters, marks and names of architectures, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from surgery.architecture import Architecture
from surgery.architecture.strip import strip_key

_NAMES = {
    r"hdpl\[": "`hdpl[qv,gd]@2-3 b8 r16`: q, v, gate and down of layers 2 and 3 are HDPL operators with 8 "
    "blocks and rank 16",
    r"low_rank\[": "`low_rank[gud] r64`: gate, up and down are products of two matrices of rank 64",
    "loop ": "`loop 2`: the layers run twice",
    r"ffn\[\d+:": "`ffn[3:768 5:none]`: other widths of feed-forward parts, by layer",
    r"kv\[": "`kv[2:1]`: other numbers of key/value heads, by layer",
    "×": "`ffn[none]×3`: three layers have this replacement, which their letters don't show",
}


def key_of_letters(*architectures: Architecture) -> str:
    """Return what the letters and marks in pictures of these architectures mean."""
    words = [f"`{sign}` {meaning}" for sign, meaning in strip_key(*architectures)]
    return f"Letters and marks: {', '.join(words)}."


def key_of_names(lines: Sequence[str]) -> str:
    """Return what the words in these names of architectures mean; empty if letters are all there is."""
    used = [text for word, text in _NAMES.items() if any(re.search(word, line) for line in lines)]
    return f"Names: {'; '.join(used)}." if used else ""
