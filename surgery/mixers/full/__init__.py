"""`F`: full causal softmax attention."""

from __future__ import annotations

from surgery.mixers.softmax import GATE, SoftmaxSpec


class FullSpec(SoftmaxSpec):
    """Softmax attention over all past tokens."""

    letter = "F"
    word = "full"
    name = "full attention"
    colour = "blue"
    options = {"gate": GATE}
