"""The options --adapter and --steer of commands that run a model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from surgery.latents.steering import Steering

AdapterOption = Annotated[
    Path | None,
    typer.Option(
        "--adapter", metavar="FOLDER", help="Add the offsets of an adapter of `nas latents` to its latents."
    ),
]
SteerOption = Annotated[
    Path | None,
    typer.Option(
        "--steer", metavar="FILE",
        help="Change latents of HDPL projections by the rules of a YAML file, after --adapter.",
    ),
]  # fmt: skip


def read_changes(model: str, adapter: Path | None, steer: Path | None) -> list[Steering]:
    """Read what both options name, and check it against the model's config; none for neither. Loads torch.

    Raises:
        UserError: they can't be read or don't fit the model.
    """
    if adapter is None and steer is None:
        return []
    from studies.evaluation.model_folder import read_layers
    from surgery.config.problems import Problem, UserError
    from surgery.latents import Steering, latent_ranks, load_adapter, read_steering

    architecture = read_layers(model)
    ranks = latent_ranks(architecture)
    if not ranks:
        option = "--adapter" if adapter is not None else "--steer"
        rule = f"has no effect: {architecture.line} has no HDPL projections"
        raise UserError("nothing can be steered", [Problem(option, str(adapter or steer), rule)])
    changes = [] if adapter is None else [Steering.of(load_adapter(adapter))]
    if steer is not None:
        changes.append(read_steering(steer, ranks, len(architecture.layers)))
    return changes


def steering(model: Any, changes: list[Steering]) -> AbstractContextManager[None]:
    """Return a context in which the changes hold; a model without any need have no latents."""
    if not changes:
        return nullcontext()
    from surgery.latents import steered

    return steered(model, *changes)
