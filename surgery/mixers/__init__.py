"""Token mixers by letter. A new one is a folder here (spec without torch, module with) and a line below."""

from __future__ import annotations

from surgery.mixers.base import MixerSpec
from surgery.mixers.full import FullSpec

MIXERS: dict[str, MixerSpec] = {
    "F": FullSpec(),
}

# Every letter the house knows, with the word search spaces use for it; those not in MIXERS are
# refused by name, not mistaken for a typing error.
MIXER_WORDS = {"F": "full", "G": "gdn", "W": "window", "S": "sparse", "K": "gaussian"}
MIXER_NAMES = {
    "F": "full attention",
    "G": "Gated DeltaNet",
    "W": "sliding-window attention",
    "S": "sparse top-k attention",
    "K": "Gaussian-kernel attention",
}


def not_landed(letter: str) -> str:
    """Why a known mixer can't be used yet."""
    here = ", ".join(f"{key} ({MIXER_NAMES[key]})" for key in MIXERS)
    return f"{letter} ({MIXER_NAMES[letter]}) is not part of this version of nas; it has {here}"
