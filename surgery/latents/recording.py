"""Recording the latents of a model while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from surgery.config.problems import Problem, UserError
from surgery.latents.projections import Latent, latent_projections, ranks_of
from surgery.latents.statistics import Moments


@contextmanager
def recording(model: nn.Module) -> Iterator[dict[Latent, Moments]]:
    """Collect the latents mu of every HDPL projection in the forward passes inside of the block.

    All tokens of a pass count, padding too, and in a looped model once per pass. A projection that is steered
    is read before the change.

    Args:
        model: as for `latent_projections`.

    Yields:
        What is collected so far, by projection.

    Raises:
        UserError: the model has no HDPL projections; or nothing was collected, as in compiled models.
    """
    projections = latent_projections(model)
    moments = {name: Moments(rank) for name, rank in ranks_of(projections).items()}
    hooks = [
        module.mu.register_forward_hook(partial(_collect, module, moments[name]))
        for name, module in projections.items()
    ]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()
    if not all(own.tokens for own in moments.values()):
        rule = "ran no forward pass whose latents could be read"
        hint = "run it inside of the block, and not compiled"
        raise UserError("no latents", [Problem("model", type(model).__name__, rule, hint)])


def _collect(projection: Any, moments: Moments, mu: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
    """Add the latents of a call of `mu`; called by torch."""
    x = inputs[0]
    logvar = projection.logvar(x)
    moments.add(y.reshape(-1, y.shape[-1]), logvar.reshape(-1, logvar.shape[-1]))
