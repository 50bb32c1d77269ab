"""What a token mixer must tell about itself, without torch: options, projections, costs, how to build it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from surgery.config.backbone import Backbone
from surgery.config.options import Option

if TYPE_CHECKING:
    from torch import nn

Options = Mapping[str, Any]
MakeProjection = Callable[[str], "nn.Module"]


class MixerSpec(ABC):
    """Mixes tokens of a layer: (batch, tokens, dim) -> the same, causally."""

    letter: ClassVar[str]  # in layouts
    word: ClassVar[str]  # in fields of search spaces
    name: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}
    windowed: ClassVar[bool] = False  # whether a window of the loop's pass limits it
    layer_type: ClassVar[str] = "full_attention"  # transformers' word for it, in `layer_types` of a config
    colour: ClassVar[str] = "white"  # of its letter on a terminal, as Rich names colours

    def broken_rule(self, backbone: Backbone, options: Options) -> tuple[str, str] | None:
        """(option, rule) when the mixer does not fit this backbone, else None."""
        return None

    def canonical(self, backbone: Backbone, options: Options) -> dict[str, Any]:
        """Options with whatever has no effect set to its default: equal models, equal options."""
        return dict(options)

    def warning(self, options: Options) -> str:
        """A knob that can have no effect at these options, in one sentence; empty when all are live."""
        return ""

    def in_pass(self, options: Options, window: int | None) -> Options:
        """Options as they act in a pass of the loop that may look back `window` tokens (None: on all)."""
        return options

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
    def cache_bytes(self, backbone: Backbone, options: Options, context: int) -> int:
        """Bytes kept for decoding after `context` tokens, one sequence, one pass: what is kept in the
        model's dtype counts as bfloat16, a recurrent state as the float32 it is."""

    @abstractmethod
    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module:
        """The module: (x, context) -> y. `projection(name)` makes its projections. Imports torch."""
