"""What a forward pass hands to every layer beside its input, and the cache that decoding keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from surgery.ops.padding import close_gaps

State = tuple[Tensor, ...]


class DecodeCache:
    """State of decoding, keyed by (layer, pass): a looped stack keeps one for each pass.

    Every tensor in it has the batch as its first dimension. Speaks the few words of transformers' cache
    protocol that `generate` needs: it has a length, can't be compiled and can't be cropped.
    """

    is_compileable = False
    is_croppable = False
    is_linear = (False,)  # one entry per layer in transformers: False where a length is kept
    is_sliding = (False,)

    def __init__(self) -> None:
        self.states: dict[tuple[int, int], State] = {}
        self.length = 0  # tokens seen so far
        self.real: Bool[Tensor, "b length"] | None = None  # False at those that were padding; None: none was

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: a recurrent state can't be taken back to an earlier token."""
        raise ValueError("a DecodeCache can't be cropped: recurrent states keep no earlier ones")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.states = {
            slot: tuple(tensor.index_select(0, beam_idx.to(tensor.device)) for tensor in state)
            for slot, state in self.states.items()
        }
        if self.real is not None:
            self.real = self.real.index_select(0, beam_idx.to(self.real.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.states = {
            slot: tuple(tensor.repeat_interleave(repeats, 0) for tensor in state)
            for slot, state in self.states.items()
        }
        if self.real is not None:
            self.real = self.real.repeat_interleave(repeats, 0)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)

    @property
    def bytes(self) -> int:
        """Bytes that the cached tensors hold."""
        return sum(
            tensor.numel() * tensor.element_size() for state in self.states.values() for tensor in state
        )


@dataclass
class Context:
    """One forward pass. `losses` collects auxiliary scalars (KL terms); `slot` is (layer, pass).

    Padding stands left of every row's real tokens (`surgery.ops.padding`), except that `gap` columns of it
    stand between what a row has cached and its new tokens: `append` closes them.
    """

    rotary: tuple[Float[Tensor, "b t h"], Float[Tensor, "b t h"]]
    seen: int = 0  # tokens before this pass, kept in the cache
    padding: Bool[Tensor, "b s"] | None = None  # True at real tokens, cached and new ones; None: all are
    window: int | None = None  # tokens attention sees in this pass of a loop, itself included
    losses: list[Tensor] = field(default_factory=list)
    cache: DecodeCache | None = None
    slot: tuple[int, int] = (0, 0)
    gap: Int[Tensor, "b 1"] | None = None
    _drawn: Bool[Tensor, "b 1 t s"] | None = None

    @property
    def state(self) -> State | None:
        """What this layer kept in this pass at the last step."""
        return self.cache.states.get(self.slot) if self.cache is not None else None

    def keep(self, state: State) -> None:
        if self.cache is not None:
            self.cache.states[self.slot] = state

    @property
    def new_real(self) -> Bool[Tensor, "b t"] | None:
        """Which of the new tokens are real; None: all are."""
        if self.gap is None:
            return self.padding[:, self.seen :] if self.padding is not None else None
        length = self.rotary[0].shape[1]
        return torch.arange(length, device=self.gap.device)[None] >= self.gap

    def append(self, past: Tensor, new: Tensor, dim: int) -> Tensor:
        """Cached columns followed by the new ones, with every row's real tokens at its end."""
        whole = torch.cat((past, new), dim=dim)
        return whole if self.gap is None else close_gaps(whole, new.shape[dim], self.gap, dim)

    @property
    def mask(self) -> Bool[Tensor, "b 1 t s"] | None:
        """True where a query may look: not ahead, not at padding; padding itself sees itself, so that no row
        is empty. None: plain causal, or one new token that sees all. Drawn when a mixer first asks."""
        if self.padding is None and (self.rotary[0].shape[1] == 1 or not self.seen):
            return None
        if self._drawn is None:
            self._drawn = self._draw()
        return self._drawn

    def _draw(self) -> Bool[Tensor, "b 1 t s"]:
        batch, length, _ = self.rotary[0].shape
        device = self.rotary[0].device
        total = self.seen + length
        rows = torch.arange(self.seen, total, device=device)[:, None]
        columns = torch.arange(total, device=device)[None]
        mask = (columns <= rows)[None, None].expand(batch, 1, length, total)
        if self.padding is not None:
            mask = (mask & self.padding[:, None, None, :]) | (columns == rows)
        return mask
