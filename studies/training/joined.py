"""Several optimizers of one model that look like one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class Joined:
    """Optimizers by name, each with its own parameters, as one optimizer."""

    def __init__(self, parts: Mapping[str, torch.optim.Optimizer]) -> None:
        """Join optimizers; a state that is loaded later must be of the same names."""
        self.parts = dict(parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all of them, in their order; changes of a group take effect."""
        return [group for part in self.parts.values() for group in part.param_groups]

    def step(self) -> None:
        """Step all of them."""
        for part in self.parts.values():
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, or set them to zero."""
        for part in self.parts.values():
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the states by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned, saved on any device."""
        assert state.keys() == self.parts.keys(), "a run is resumed with the optimizer that it began with"
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
