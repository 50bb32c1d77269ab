"""Rotary position embedding with the scalings of Llama-family checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from surgery.config.backbone import Backbone
from surgery.ops.rotary_triton import fits_heads, rotate_fused

# cos and sin of the tokens' angles; one row if the positions are the same in all
Rotary = tuple[Float[Tensor, "#b t h"], Float[Tensor, "#b t h"]]


def rotary_tables(
    backbone: Backbone, positions: Int[Tensor, "b t"]
) -> tuple[Float[Tensor, "b t h"], Float[Tensor, "b t h"]]:
    """Return cos and sin of every position's angles in float32; both halves of the channels are equal."""
    frequencies, scale = _frequencies(backbone, positions.device)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * scale, angles.sin() * scale


class RotaryTables:
    """Cache of cos and sin for positions from 0, per device, extended on demand.

    Without it, every forward pass on CUDA would wait for a copy from the host.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._cached: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(
        self, start: int, stop: int, device: torch.device
    ) -> tuple[Float[Tensor, "1 t h"], Float[Tensor, "1 t h"]]:
        """Return cos and sin of the positions [start, stop)."""
        tables = self._cached.get(device)
        if tables is None or tables[0].shape[1] < stop:
            length = stop if start == 0 else 2 * stop  # decoding asks for one more position every time
            # tensors created in inference mode can't be used in training
            with torch.inference_mode(False), torch.no_grad():
                tables = rotary_tables(self.backbone, torch.arange(length, device=device)[None])
            self._cached[device] = tables
        return tables[0][:, start:stop], tables[1][:, start:stop]


def rotate(x: Float[Tensor, "b heads t h"], rotary: Rotary) -> Float[Tensor, "b heads t h"]:
    """Rotate channels i and i + h/2 by the position's angle (Su et al. 2021, with Llama's channel pairs)."""
    if not torch.compiler.is_compiling() and fits_heads(x, *rotary):
        rotated: Tensor = _Rotation.apply(x, *rotary)
        return rotated
    cos, sin = (table[:, None].to(x.dtype) for table in rotary)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class _Rotation(torch.autograd.Function):
    """Rotation by the fused kernel; the gradient is rotated back, and the angles have none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate_fused(x, cos, sin, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return rotate_fused(d_y, cos, sin, back=True), None, None


def _frequencies(backbone: Backbone, device: torch.device) -> tuple[Tensor, float]:
    """Return the angle per token of each channel pair, and the factor on cos and sin (YaRN only).

    Every step rounds as in transformers: at long positions one bit changes an angle visibly.
    """
    size = backbone.head_dim
    steps = torch.arange(0, size, 2, dtype=torch.int64).float() / size
    periods = backbone.rope_theta**steps  # tokens per radian
    frequencies = 1.0 / periods
    scaling = backbone.rope_scaling
    scale = 1.0
    if scaling is None:
        pass
    elif scaling["rope_type"] == "linear":
        frequencies = frequencies / scaling["factor"]
    elif scaling["rope_type"] == "llama3":
        frequencies = _llama3(frequencies, scaling)
    else:
        frequencies, scale = _yarn(periods, scaling, backbone)
    return frequencies.to(device), scale


def _llama3(frequencies: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Divide low frequencies by the factor, keep high ones, and interpolate between them (Llama 3.1)."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies  # tokens
    turns = scaling["original_max_position_embeddings"] / wavelengths
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    scaled: Tensor = (1 - blend) * frequencies / scaling["factor"] + blend * frequencies
    return scaled


def _yarn(periods: Tensor, scaling: Mapping[str, Any], backbone: Backbone) -> tuple[Tensor, float]:
    """Return NTK-by-parts frequencies and the attention factor (Peng et al. 2023, sections 3.2 and 3.4)."""
    factor = scaling["factor"]
    length = scaling["original_max_position_embeddings"]

    def channel(turns: float) -> float:
        """Return the channel pair that makes this many rotations over the original length."""
        return (
            backbone.head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(backbone.rope_theta))
        )

    first, last = channel(scaling.get("beta_fast") or 32), channel(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, backbone.head_dim - 1)
    if first == last:
        last += 0.001  # an empty ramp would divide by zero
    channels = torch.arange(len(periods), dtype=torch.float32)
    unscaled = 1 - ((channels - first) / (last - first)).clamp(0, 1)
    frequencies = 1.0 / (factor * periods) * (1 - unscaled) + 1.0 / periods * unscaled

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    scale = scaling.get("attention_factor")
    if scale is None:
        numerator, denominator = scaling.get("mscale"), scaling.get("mscale_all_dim")
        scale = mscale(numerator) / mscale(denominator) if numerator and denominator else mscale(1.0)
    return frequencies, float(scale)
