"""Short labels of replacements for narrow tables: `W 256 4` for `W window=256 sinks=4`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

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


def shorten(name: str, short: Mapping[tuple[str, str], str]) -> str:
    """Return the name of a design to beat, such as `lowest W window=256 sinks=4 75%`, with short labels.

    Args:
        name: of the design, or of its trial.
        short: as `short_labels` gives them; names are unchanged without any.
    """
    for (_, label), text in sorted(short.items(), key=lambda item: -len(item[0][1])):
        name = name.replace(f" {label} ", f" {text} ")
    return name
