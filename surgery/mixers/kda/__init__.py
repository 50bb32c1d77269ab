"""`D`: Kimi Delta Attention (KDA, Kimi Linear, arXiv 2510.26692), the delta rule with a decay per channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.config.backbone import Backbone
from surgery.mixers.base import MakeProjection, Options
from surgery.mixers.delta.spec import DeltaSpec, delta_options
from surgery.mixers.kda.sizes import KimiSizes, resolve

if TYPE_CHECKING:
    from torch import nn


class KimiDeltaSpec(DeltaSpec):
    """S_t = (I - beta_t k_t k_t^T) Diag(alpha_t) S_(t-1) + beta_t k_t v_t^T; o_t = S_t^T q_t (section 3)."""

    letter = "D"
    word = "kda"
    name = "Kimi Delta Attention"
    colour = "bright_green"
    transplanter = "surgery.mixers.kda.transplant:transplant"
    sizes = KimiSizes
    options = delta_options(expand_v=1.0, gate="sigmoid(W_up W_down x)")

    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        """Build a `KimiDeltaAttention` of the resolved sizes. Imports torch."""
        from surgery.mixers.kda.module import KimiDeltaAttention

        norm_eps = options["norm_eps"] or backbone.norm_eps
        return KimiDeltaAttention(resolve(backbone, options), projection, norm_eps)
