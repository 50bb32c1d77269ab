"""Headers of narrow columns."""

from __future__ import annotations


def header(name: str, *, narrow: bool = False) -> str:
    """Return a metric's name as a header of several lines: the context below, and if narrow every word."""
    text = name.replace("@", "\n@")
    return text.replace("_", "_\n").replace(" ", "\n") if narrow else text
