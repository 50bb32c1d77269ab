"""Steering a model: changes of latents that hold inside of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from surgery.config.problems import Problems
from surgery.latents.adapter import check_base
from surgery.latents.change import Change, Steer
from surgery.latents.projections import Latent, latent_projections, ranks_of
from surgery.latents.steering import Steering


@contextmanager
def steered(model: nn.Module, *steerings: Steering) -> Iterator[None]:
    """Change a model's latents inside of the block; afterwards it computes exactly what it did before.

    The changes hold in every forward pass for all tokens, in every pass of a loop: in cached generation,
    compiled models and training, too. Projections that are not named compute bit for bit what they would
    compute without. Blocks may be nested; the inner changes come last.

    Args:
        model: as for `latent_projections`.
        steerings: what to change, one after the other.

    Raises:
        UserError: the model has no HDPL projections, or not those that are named, or an adapter is of another
            model.
    """
    projections = latent_projections(model)
    check_base([adapter for steering in steerings for adapter in steering.adapters], model)
    ranks = ranks_of(projections)
    changes: dict[Latent, Change] = {}
    problems = Problems()
    for steering in steerings:
        for name, change in steering.changes.items():
            if ranks.get(name) != len(change.offset):
                rule = f"has {ranks[name]} latents" if name in ranks else "has no latents"
                problems.add(str(name), len(change.offset), f"{rule} in this model")
                continue
            changes[name] = changes[name].then(change) if name in changes else change
    problems.raise_if_any("the steering does not fit the model")
    before = {name: projections[name].steer for name in changes}
    try:
        for name, change in changes.items():
            outer = before[name]
            whole = change if outer is None else outer.change.then(change)
            projections[name].steer = Steer(whole, projections[name].blocks)
        yield
    finally:
        for name, steer in before.items():
            projections[name].steer = steer
