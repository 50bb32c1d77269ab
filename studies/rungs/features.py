"""What may tell how an architecture learns on: its mixers, passes, replaced projections and size."""

from __future__ import annotations

import math

from surgery.architecture import Architecture
from surgery.costs import params_nonembedding
from surgery.mixers import MIXERS


def features(architecture: Architecture) -> tuple[float, ...]:
    """Shares of the layers by mixer, log of passes, share of replaced projections, log of parameters."""
    layout = architecture.layout
    operators = [item.name for layer in architecture.layers for item in layer.projections.values()]
    return (
        *(layout.count(letter) / len(layout) for letter in MIXERS),
        math.log(architecture.loop_count),
        sum(name != "dense" for name in operators) / len(operators),
        math.log(params_nonembedding(architecture)),
    )
