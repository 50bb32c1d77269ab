"""What a token mixer must tell about itself, without torch: options, projections, costs, how to build it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from surgery.backbone import Backbone
from surgery.options import Option

if TYPE_CHECKING:
    from torch import nn

Options = Mapping[str, Any]
MakeProjection = Callable[[str], "nn.Module"]


class MixerSpec(ABC):
    """Mixes tokens of a layer: (batch, tokens, dim) -> the same, causally."""

    letter: ClassVar[str]
    name: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}

    @abstractmethod
    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """The projections out of q k v o that it has, each with (inputs, outputs)."""

    def own_params(self, backbone: Backbone, options: Options) -> int:
        """Parameters beside the projections."""
        return 0

    def own_flops(self, backbone: Backbone, options: Options) -> int:
        """Matrix-multiply FLOPs a token beside projections and mixing."""
        return 0

    @abstractmethod
    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        """Matrix-multiply FLOPs of mixing one token with `context` tokens, itself included."""

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        """Mean of `mixing_flops` over the tokens of a sequence of `length`, each seeing its past."""
        return sum(self.mixing_flops(backbone, options, seen + 1) for seen in range(length)) / length

    @abstractmethod
    def cache_elements(self, backbone: Backbone, options: Options, context: int) -> int:
        """Numbers kept for decoding after `context` tokens, one sequence, one pass."""

    @abstractmethod
    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        """The module: (x, context) -> y. `projection(name)` makes its projections. Imports torch."""
