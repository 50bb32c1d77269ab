"""`F`: full causal softmax attention."""

from __future__ import annotations

from surgery.mixers.softmax import GATE, KV_HEADS, SoftmaxSpec


class FullSpec(SoftmaxSpec):
    """Softmax attention over all past tokens."""

    letter = "F"
    word = "full"
    name = "full attention"
    colour = "blue"
    options = {"gate": GATE, "kv_heads": KV_HEADS}
