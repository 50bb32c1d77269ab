"""`G`: Gated DeltaNet (arXiv 2412.06464), linear attention with a decaying, error-correcting state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.config.backbone import Backbone
from surgery.config.options import Option
from surgery.mixers.base import MakeProjection, Options
from surgery.mixers.delta.spec import DeltaSpec, delta_options
from surgery.mixers.gdn.sizes import DeltaSizes, resolve

if TYPE_CHECKING:
    from torch import nn


class GatedDeltaSpec(DeltaSpec):
    """S_t = alpha_t (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T; o_t = S_t^T q_t (eq. 10)."""

    letter = "G"
    word = "gdn"
    name = "Gated DeltaNet"
    colour = "green"
    transplanter = "surgery.mixers.gdn.transplant:transplant"
    sizes = DeltaSizes
    options = delta_options(
        expand_v=2.0,
        gate="silu(W x)",
        decay=Option(bool, True, help="the state fades; false: plain DeltaNet"),
    )

    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        """Build a `GatedDeltaNet` of the resolved sizes. Imports torch."""
        from surgery.mixers.gdn.module import GatedDeltaNet

        norm_eps = options["norm_eps"] or backbone.norm_eps
        return GatedDeltaNet(resolve(backbone, options), projection, norm_eps)
