"""Interface of projection operators, without torch: options, rules, costs, and building the module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from surgery.config.options import Option

if TYPE_CHECKING:
    from torch import nn

Options = Mapping[str, Any]


class ProjectionSpec(ABC):
    """Description of a projection operator: a linear map d_in -> d_out of a layer, or its replacement."""

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}
    conditional: ClassVar[tuple[str, ...]] = ()  # options that have no effect for some values of others
    training_only: ClassVar[tuple[str, ...]] = ()  # options that change nothing in evaluation
    colour: ClassVar[str] = "bright_yellow"  # Rich colour of its mark on a terminal
    # "module:function" of the operator's `surgery.apply.fit.Fitter`; None if it has none. A name, not an
    # import: an exported model carries this file and all that it imports.
    fitter: ClassVar[str | None] = None

    def broken_rule(self, d_in: int, d_out: int, options: Options) -> tuple[str, str] | None:
        """Return (option, broken rule) if the operator does not fit these sizes, else None."""
        return None

    def canonical(self, options: Options) -> dict[str, Any]:
        """Return the options with ineffective ones at their defaults, so that equal models compare equal."""
        return dict(options)

    def idle_options(self, options: Options) -> dict[str, str]:
        """Return the `conditional` options that have no effect with these others, each with the reason.

        A search space then neither samples nor counts them. `options` need not hold the conditional ones.
        """
        return {}

    @abstractmethod
    def params(self, d_in: int, d_out: int, options: Options) -> int:
        """Return the number of parameters, without the output bias of the dense map."""

    @abstractmethod
    def flops(self, d_in: int, d_out: int, options: Options, *, training: bool) -> int:
        """Return the matrix-multiply FLOPs per token of a forward pass (2 per multiply-add)."""

    @abstractmethod
    def short(self, options: Options) -> str:
        """Return the options abbreviated for tables, such as `b8 r128`."""

    def warning(self, options: Options) -> str:
        """Return a sentence about an option that can have no effect here; empty if there is none."""
        return ""

    @abstractmethod
    def build(self, d_in: int, d_out: int, bias: bool, options: Options) -> nn.Module:
        """Build the module: (..., d_in) and a forward context -> (..., d_out). Imports torch."""
