"""Short names of trials and their architectures, the same on screens, in pictures, notes and pages.

`--json`, `nas show` and the notes of trials also have an architecture's whole line.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from search_spaces.short_labels import short_labels, shorten

if TYPE_CHECKING:
    from search_spaces import SearchSpace
    from search_spaces.replacements import Part, Replacements
    from studies.study.trial_record import TrialRecord

LONGEST_LAYOUT = 40  # letters; longer ones are shortened where they repeat


class Names:
    """Names of a space's trials.

    A design of a pretrained model is written as its layout and how often it has the replacements that the
    layout does not tell apart: `FWWF W[256,4]×2 ffn[768]×3`.
    """

    def __init__(self, space: SearchSpace | None = None) -> None:
        """Set up for a space; without one names are those of architectures that are trained from scratch."""
        self._replacements = None if space is None else space.replacements
        self._short: dict[tuple[str, str], str] = {}
        self._tags: dict[tuple[str, str], str] = {}
        if self._replacements is not None:
            self._short = short_labels(self._replacements)
            self._tags = _tags(self._replacements, self._short)

    def name(self, record: TrialRecord) -> str:
        """Return `#4 lowest W 256 4 75%`: the trial's name with short labels."""
        return self.label(record.name)

    def label(self, name: str) -> str:
        """Return the name of a named design, or of its trial, with short labels."""
        return shorten(name, self._short)

    def design(self, record: TrialRecord) -> str:
        """Return the architecture on one line."""
        if self._replacements is None:
            return record.line
        parts = self._replacements.parts
        if record.architecture is None or any(part.name not in record.params for part in parts):
            return "·".join(word for word in record.line.split("·") if word != "dense")
        tags = Counter(
            tag for part in parts if (tag := self._tags.get((part.part, record.params[part.name])))
        )
        counts = [f"{tag}×{tags[tag]}" for tag in dict.fromkeys(self._tags.values()) if tags[tag]]
        layout = str(record.architecture["layout"])
        return " ".join([layout if len(layout) <= LONGEST_LAYOUT else record.line.split("·")[0], *counts])


def _tags(replacements: Replacements, short: dict[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """Return how replacements are counted, by (part, label), without those that the layout shows."""
    first = {part.part: part for part in reversed(replacements.parts)}  # options are those of every layer
    own = set(replacements.model.layout)
    tags = {}
    for part in sorted(first.values(), key=lambda item: item.part != "mixer"):
        letters = Counter(option.letter for option in part.options)
        for option in part.options[1:]:
            text = short[part.part, option.label]
            if option.letter is None:
                tags[part.part, option.label] = f"{part.part}[{_value(text, part, short)}]"
            elif letters[option.letter] > 1 or option.letter in own:
                values = text.split(" ")[1:]
                tags[part.part, option.label] = option.letter + (f"[{','.join(values)}]" if values else "")
    return tags


def _value(text: str, part: Part, short: dict[tuple[str, str], str]) -> str:
    """Return `768` for `dim 768`, and an operator's name with what tells it from others of that name."""
    words = text.split(" ")
    if words[0] == "dim":
        return words[1]
    all_words = [short[part.part, label].split(" ") for label in part.labels]
    same_name = [others for others in all_words if others[0] == words[0]]
    own = [word for word in words[1:] if not all(word in others for others in same_name)]
    return ",".join([words[0], *own])
