"""`N`: no token mixing. The layer has its feed-forward part alone, if it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.config.backbone import Backbone
from surgery.mixers.base import MakeProjection, MixerSpec, Options

if TYPE_CHECKING:
    from torch import nn


class NoneSpec(MixerSpec):
    """The residual stream passes unchanged: no parameters, no norm, no cache, no FLOPs.

    transformers has no word for such a layer; `layer_type` stays that of attention.
    """

    letter = "N"
    word = "none"
    name = "no token mixing"
    colour = "bright_black"
    mixes = False

    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """Return no projections."""
        return {}

    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return 0."""
        return 0

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        """Return 0."""
        return 0.0

    def cache_bytes(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return 0."""
        return 0

    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module | None:
        """Return None: the layer has no mixer."""
        return None
