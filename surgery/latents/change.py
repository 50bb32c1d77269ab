"""Changes of latents, z -> clamp(scale * z + offset, low, high) for each unit, and their module.

Changes of this form are closed under composition, so that any number of them costs as much as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

Units = Float[Tensor, " rank"]


@dataclass(frozen=True)
class Change:
    """A change of the latents of one projection: tensors of one number per unit, in float64 on the CPU."""

    scale: Units
    offset: Units
    low: Units
    high: Units

    @classmethod
    def identity(cls, rank: int) -> Change:
        """Return the change that leaves `rank` latents as they are."""
        ones, infinite = torch.ones(rank, dtype=torch.float64), torch.full((rank,), math.inf).double()
        return cls(ones, torch.zeros_like(ones), -infinite, infinite)

    @classmethod
    def shift(cls, offset: Float[Tensor, " rank"]) -> Change:
        """Return the change that adds an offset."""
        identity = cls.identity(len(offset))
        return cls(identity.scale, offset.detach().cpu().double(), identity.low, identity.high)

    def then(self, other: Change) -> Change:
        """Return the change that applies this one and then the other."""
        low, high = (_affine(other, bound) for bound in (self.low, self.high))
        low, high = torch.minimum(low, high), torch.maximum(low, high)  # a negative scale swaps them
        return Change(
            other.scale * self.scale,
            other.scale * self.offset + other.offset,
            torch.minimum(torch.maximum(low, other.low), other.high),
            torch.minimum(torch.maximum(high, other.low), other.high),
        )

    def __call__(self, z: Float[Tensor, "*batch rank"]) -> Float[Tensor, "*batch rank"]:
        """Return the changed latents in float64."""
        moved = self.scale * z.double() + self.offset
        return torch.minimum(torch.maximum(moved, self.low), self.high)

    @property
    def is_identity(self) -> bool:
        """True if it changes nothing."""
        same = bool((self.scale == 1).all() and (self.offset == 0).all())
        return same and not self.clamps

    @property
    def clamps(self) -> bool:
        """True if any unit has a bound."""
        return bool((self.low > -math.inf).any() or (self.high < math.inf).any())


def _affine(change: Change, bound: Units) -> Units:
    """Return scale * bound + offset, where zero times infinity is zero."""
    return torch.where(change.scale == 0, torch.zeros_like(bound), change.scale * bound) + change.offset


class Steer(nn.Module):
    """Module of a `Change`, for the attribute `steer` of an HDPL projection.

    Its tensors follow the model's device and are in no state dict, but for an offset that is trained.
    """

    offset: Tensor
    scale: Tensor | None
    low: Tensor | None
    high: Tensor | None

    def __init__(self, change: Change, like: Tensor, *, trains: bool = False) -> None:
        """Set up a change.

        Args:
            change: to apply.
            like: a weight of the projection, whose device the tensors have, and whose dtype if it is not
                shorter than float32.
            trains: make the offset a parameter.
        """
        super().__init__()
        device = "cpu" if like.is_meta else like.device  # weights that accelerate loads when needed are meta
        dtype = torch.promote_types(like.dtype, torch.float32)
        offset = change.offset.to(device, dtype)
        if trains:
            self.offset = nn.Parameter(offset)
        else:
            self.register_buffer("offset", offset, persistent=False)
        scaled = bool((change.scale != 1).any())
        for name, tensor, used in (
            ("scale", change.scale, scaled), ("low", change.low, change.clamps),
            ("high", change.high, change.clamps),
        ):  # fmt: skip
            self.register_buffer(name, tensor.to(device, dtype) if used else None, persistent=False)

    def forward(self, z: Float[Tensor, "*batch rank"]) -> Float[Tensor, "*batch rank"]:
        """Return the changed latents in the dtype of `z`."""
        if self.scale is not None:
            z = z * self.scale.to(z)
        z = z + self.offset.to(z)
        if self.low is None or self.high is None:
            return z
        return z.clamp(self.low.to(z), self.high.to(z))

    @property
    def change(self) -> Change:
        """The change that it applies."""
        identity = Change.identity(len(self.offset))
        own = {
            name: tensor.detach().cpu().double()
            for name in ("scale", "offset", "low", "high")
            if (tensor := getattr(self, name)) is not None
        }
        return replace(identity, **own)
