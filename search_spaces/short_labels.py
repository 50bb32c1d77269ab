"""Short labels of replacements for narrow tables: `W 256 4` for `W window=256 sinks=4`."""

from __future__ import annotations

import re
from collections import Counter

from search_spaces.replacements import Replacements

_WIDTH = re.compile(r"^dim=")  # the name is all that tells a width from other numbers
_NAMED = re.compile(r"\b\w+=")


def short_labels(replacements: Replacements) -> dict[tuple[str, str], str]:
    """Return a short label by (part, label) of every option, unique among those of a part.

    Names of options are left out; labels that would then be equal stay as they are.
    """
    short = {
        (part.part, label): _NAMED.sub("", _WIDTH.sub("dim ", label))
        for part in replacements.parts
        for label in part.labels
    }
    times = Counter((part, text) for (part, _), text in short.items())
    return {(part, label): text if times[part, text] == 1 else label for (part, label), text in short.items()}
