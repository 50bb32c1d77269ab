"""Results and errors of fitting operators to dense weights. Each operator has its own fitter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pkgutil import resolve_name
from typing import Any

from jaxtyping import Float
from torch import Tensor

from surgery.architecture import Architecture
from surgery.config.problems import Problem, Problems, UserError
from surgery.projections import PROJECTION_OPERATORS


@dataclass(frozen=True)
class FitReport:
    """Quality of the fit of one projection, or of a mixer that replaces another (projection `mixer`).

    Attributes:
        weight_error: ||W - W'|| / ||W|| (Frobenius); None for a mixer.
        output_error: RMS of W x - f(x) over RMS of W x on the calibration text, f being the operator; None
            without a text.
        steps: iterations until convergence.
    """

    layer: int
    projection: str
    operator: str
    weight_error: float | None
    output_error: float | None
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Fitted:
    """Parameters of an operator by name, and the linear map W' (d_out, d_in) that they represent."""

    parameters: dict[str, Tensor]
    weight: Tensor
    steps: int


# Forms in which a nonlinear latent can carry a linear map; see `surgery.projections.hdpl.fit`.
FORMS = ("full", "paired")
# (weight, second moments of the inputs, options, form, importance of each output) -> Fitted
Fitter = Callable[[Tensor, Tensor | None, Mapping[str, Any], str, Tensor | None], Fitted]


def fitter_of(operator: str) -> Fitter:
    """Return the function that fits this operator to dense weights (see `check_operators`)."""
    path = PROJECTION_OPERATORS[operator].fitter
    assert path is not None, operator
    fitter: Fitter = resolve_name(path)
    return fitter


def check_operators(after: Architecture) -> None:
    """Check that every operator can be fitted to dense weights.

    Raises:
        UserError: lists the operators that can't.
    """
    problems = Problems()
    supported = ", ".join(name for name, spec in PROJECTION_OPERATORS.items() if spec.fitter)
    for operator in sorted({item.name for layer in after.layers for item in layer.projections.values()}):
        if operator != "dense" and PROJECTION_OPERATORS[operator].fitter is None:
            problems.add(
                "operator", operator, "can't be fitted to dense weights", f"those that can: {supported}"
            )
    problems.raise_if_any("the architecture can't be reached by surgery")


def check_form(form: str) -> None:
    """Check the form of fitted latents.

    Raises:
        UserError: it is unknown.
    """
    if form not in FORMS:
        problem = Problem("hdpl_fit", form, f"must be one of {', '.join(FORMS)}")
        raise UserError("can't fit operators", [problem])


def weight_error(weight: Float[Tensor, "d_out d_in"], fitted: Float[Tensor, "d_out d_in"]) -> float:
    """Return ||W - W'|| / ||W|| (Frobenius)."""
    return float((weight - fitted).norm() / weight.norm().clamp(min=1e-30))
