"""`W`: sliding-window softmax attention."""

from __future__ import annotations

from surgery.config.options import Option
from surgery.mixers.softmax import GATE, SoftmaxSpec


class WindowSpec(SoftmaxSpec):
    """Softmax attention in a sliding window; its cost and cache stop growing at the window."""

    letter = "W"
    word = "window"
    name = "sliding-window attention"
    layer_type = "sliding_attention"
    colour = "cyan"
    options = {
        "window": Option(int, 256, low=1, help="tokens that a query sees, itself included"),
        "gate": GATE,
    }
