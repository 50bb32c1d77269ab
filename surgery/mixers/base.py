"""Interface of token mixers, without torch: options, projections, costs, and building the module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from surgery.config.backbone import Backbone
from surgery.config.options import Option

if TYPE_CHECKING:
    from torch import nn

Options = Mapping[str, Any]
MakeProjection = Callable[[str], "nn.Module"]


@dataclass(frozen=True)
class Carry:
    """Origin of a mixer's parameter when the mixer replaces another one.

    Attributes:
        sources: the replaced mixer's parameters, or modules of parameters, from which it is made.
        unchanged: it is its only source, bit for bit. Otherwise the mixer's `transplanter` computes it.
    """

    sources: tuple[str, ...]
    unchanged: bool = False


def kept(*names: str) -> dict[str, Carry]:
    """Return the declaration that parameters mean what they meant under the same names."""
    return {name: Carry((name,), unchanged=True) for name in names}


class MixerSpec(ABC):
    """Description of a causal token mixer, which maps (batch, tokens, dim) to the same shape."""

    letter: ClassVar[str]  # in layouts
    word: ClassVar[str]  # in fields of search spaces
    name: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}
    mixes: ClassVar[bool] = True  # False: its layers have neither a mixer nor the norm of its input or output
    training_only: ClassVar[tuple[str, ...]] = ()  # options that change nothing in evaluation
    windowed: ClassVar[bool] = False  # whether the loop pass's window applies to it
    layer_type: ClassVar[str] = "full_attention"  # its name in `layer_types` of a transformers config
    colour: ClassVar[str] = "white"  # Rich colour of its letter on a terminal
    # "module:function" of its `surgery.mixers.transplant.Transplanter`; None if it has none. A name, not an
    # import: an exported model carries this file and all that it imports.
    transplanter: ClassVar[str | None] = None

    def broken_rule(self, backbone: Backbone, options: Options) -> tuple[str, str] | None:
        """Return (option, broken rule) if the mixer does not fit this backbone, else None."""
        return None

    def kv_heads(self, backbone: Backbone, options: Options) -> int | None:
        """Return the key/value heads of a layer that sets them itself; None if it takes the backbone's."""
        return None

    def canonical(self, backbone: Backbone, options: Options) -> dict[str, Any]:
        """Return the options with ineffective ones at their defaults, so that equal models compare equal."""
        return dict(options)

    def warning(self, options: Options) -> str:
        """Return a sentence about an option that can have no effect here; empty if there is none."""
        return ""

    def in_pass(self, options: Options, window: int | None) -> Options:
        """Return the effective options in a loop pass whose window is `window` tokens (None: unlimited)."""
        return options

    def carry(
        self, backbone: Backbone, options: Options, old: MixerSpec, old_options: Options
    ) -> dict[str, Carry]:
        """Return the origin of each parameter, or module of parameters, when it replaces the mixer `old`.

        Parameters without an entry are new. A mixer of the same kind and options is not asked: it keeps all.
        """
        return {}

    @abstractmethod
    def projections(self, backbone: Backbone, options: Options) -> dict[str, tuple[int, int]]:
        """Return its projections out of q k v o, each with (inputs, outputs)."""

    def own_params(self, backbone: Backbone, options: Options) -> int:
        """Return the number of parameters other than the projections'."""
        return 0

    def own_flops(self, backbone: Backbone, options: Options) -> int:
        """Return the matrix-multiply FLOPs per token other than those of projections and mixing."""
        return 0

    @abstractmethod
    def mixing_flops(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the matrix-multiply FLOPs of mixing one token with `context` tokens, itself included."""

    def mean_mixing_flops(self, backbone: Backbone, options: Options, length: int) -> float:
        """Return the mean of `mixing_flops` over the tokens of a causal sequence of `length`."""
        return sum(self.mixing_flops(backbone, options, seen + 1) for seen in range(length)) / length

    @abstractmethod
    def cache_bytes(self, backbone: Backbone, options: Options, context: int) -> int:
        """Return the bytes cached for one sequence and one loop pass after `context` tokens.

        Tensors in the model's dtype count as bfloat16, recurrent states as float32.
        """

    @abstractmethod
    def build(self, backbone: Backbone, options: Options, projection: MakeProjection) -> nn.Module | None:
        """Build the module, called as (x, context) -> y. Imports torch. None if it does not mix (`mixes`).

        Args:
            backbone: sizes of the model.
            options: options of the mixer.
            projection: builds the projection of a name.
        """
