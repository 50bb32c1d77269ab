"""What a projection operator tells about itself, without torch: options, rules, costs, how to build it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from surgery.config.options import Option

if TYPE_CHECKING:
    from torch import nn

Options = Mapping[str, Any]


class ProjectionSpec(ABC):
    """A linear map d_in -> d_out of a layer, or what replaces it."""

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}
    conditional: ClassVar[tuple[str, ...]] = ()  # options that others may leave without effect
    colour: ClassVar[str] = "bright_yellow"  # of its mark on a terminal, as Rich names colours
    # "module:function" of the operator's `surgery.apply.fit.Fitter`; None if it has none. A name, not an
    # import: an exported model carries this file and all that it imports.
    fitter: ClassVar[str | None] = None

    def broken_rule(self, d_in: int, d_out: int, options: Options) -> tuple[str, str] | None:
        """(option, rule) when the operator does not fit these sizes, else None."""
        return None

    def canonical(self, options: Options) -> dict[str, Any]:
        """Options with whatever has no effect set to its default: equal models, equal options."""
        return dict(options)

    def idle_options(self, options: Options) -> dict[str, str]:
        """The `conditional` options that have no effect beside these others, each with the reason.

        A search space neither draws nor counts them there. `options` need not hold the conditional ones.
        """
        return {}

    @abstractmethod
    def params(self, d_in: int, d_out: int, options: Options) -> int:
        """Parameters, without the dense map's own output bias."""

    @abstractmethod
    def flops(self, d_in: int, d_out: int, options: Options, *, training: bool) -> int:
        """Forward matrix-multiply FLOPs a token (2 a multiply-add)."""

    @abstractmethod
    def short(self, options: Options) -> str:
        """Options in a few characters, for tables: `b8 r128`."""

    def warning(self, options: Options) -> str:
        """A knob that can have no effect at these options, in one sentence; empty when all are live."""
        return ""

    @abstractmethod
    def build(self, d_in: int, d_out: int, bias: bool, options: Options) -> nn.Module:
        """The module: (..., d_in) and a forward context -> (..., d_out). Imports torch."""
