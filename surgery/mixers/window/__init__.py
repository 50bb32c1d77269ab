"""`W`: sliding-window softmax attention."""

from __future__ import annotations

from typing import Any

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.base import Options
from surgery.mixers.softmax import GATE, KV_HEADS, SoftmaxSpec


class WindowSpec(SoftmaxSpec):
    """Softmax attention in a sliding window; its cost and cache stop growing at the window."""

    letter = "W"
    word = "window"
    name = "sliding-window attention"
    layer_type = "sliding_attention"
    colour = "cyan"
    options = {
        "window": Option(int, 256, low=1, help="tokens that a query sees, itself included", scales="context"),
        "gate": GATE,
        "sinks": Option(int, 0, low=0, help="first tokens of the text that a query sees too"),
        "kv_heads": KV_HEADS,
    }

    def canonical(self, backbone: Backbone, options: Options) -> dict[str, Any]:
        """Return the options, without `sinks` if there are none: older architectures have no such field."""
        same = super().canonical(backbone, options)
        return {name: value for name, value in same.items() if name != "sinks" or value}
