"""Learning rates of maps with fewer inputs than the dense map that they are a part of."""

from __future__ import annotations

# Exponent with which AdamW's best learning rate of a map falls with its number of inputs; 1 in muP. At width
# 512 and 7.5e-4, HDPL's blocks of 64 inputs and decoders of 64 and 128 learned best with four times the rate
# of dense maps: after 1.25 M tokens the loss was 0.05 to 0.09 nats lower with mostly attention layers and
# mostly HDPL projections, and up to 0.07 nats higher with Gated DeltaNet and few HDPL projections; exponents
# of 1/2 and 1 give similar results.
RATE_EXPONENT = 2 / 3


def relative_rate(d_in: int, inputs: float) -> float:
    """Return the learning rate of a map of `inputs` inputs relative to that of a dense map, at least 1."""
    rate: float = max(1.0, d_in / inputs) ** RATE_EXPONENT
    return rate
