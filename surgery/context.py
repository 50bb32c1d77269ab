"""The context that a forward pass gives to every layer in addition to its input, and the decoding cache."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from surgery.ops.padding import close_gaps
from surgery.ops.rotary import Rotary

State = tuple[Tensor, ...]


class DecodeCache:
    """Decoding state, keyed by (layer, loop pass).

    The first dimension of every tensor is the batch. Implements the part of transformers' cache protocol that
    `generate` needs: it has a length, and can't be compiled or cropped.
    """

    is_compileable = False
    is_croppable = False
    is_linear = (False,)  # one entry per layer in transformers: False if the cache has a length
    is_sliding = (False,)

    def __init__(self) -> None:
        self.states: dict[tuple[int, int], State] = {}
        self.length = 0  # tokens seen so far
        self.real: Bool[Tensor, "b length"] | None = None  # False at padding; None: no padding

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens seen so far; the same for all layers."""
        return self.length

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to crop: a recurrent state can't be reverted to an earlier token.

        Raises:
            ValueError: always.
        """
        raise ValueError("a DecodeCache can't be cropped: recurrent states keep no earlier ones")

    def reorder_cache(self, beam_idx: Int[Tensor, " n"]) -> None:
        """Select rows of the batch, one per entry of `beam_idx`."""
        self.states = {
            slot: tuple(tensor.index_select(0, beam_idx.to(tensor.device)) for tensor in state)
            for slot, state in self.states.items()
        }
        if self.real is not None:
            self.real = self.real.index_select(0, beam_idx.to(self.real.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        self.states = {
            slot: tuple(tensor.repeat_interleave(repeats, 0) for tensor in state)
            for slot, state in self.states.items()
        }
        if self.real is not None:
            self.real = self.real.repeat_interleave(repeats, 0)

    def batch_select_indices(self, indices: Int[Tensor, " n"]) -> None:
        """Select rows of the batch."""
        self.reorder_cache(indices)

    @property
    def bytes(self) -> int:
        """Size of the cached tensors in bytes."""
        return sum(
            tensor.numel() * tensor.element_size() for state in self.states.values() for tensor in state
        )


@dataclass
class Context:
    """Context of one forward pass.

    Padding is to the left of every row's real tokens (`surgery.ops.padding`), except for `gap` columns
    between a row's cached and new tokens, which `append` closes.

    Attributes:
        rotary: cos and sin of the new tokens' positions.
        seen: number of tokens in the cache before this pass.
        padding: True at real tokens, cached and new ones; None: all are real.
        window: tokens that attention sees in this loop pass, including the token itself; None: all.
        losses: auxiliary losses (KL terms), appended by the layers.
        cache: decoding state, or None.
        slot: (layer, loop pass) that is being computed.
        gap: columns of padding between the cached and the new tokens of each row; None: none in any row.
    """

    rotary: Rotary
    seen: int = 0
    padding: Bool[Tensor, "b s"] | None = None
    window: int | None = None
    losses: list[Tensor] = field(default_factory=list)
    cache: DecodeCache | None = None
    slot: tuple[int, int] = (0, 0)
    gap: Int[Tensor, "b 1"] | None = None
    _mask: Bool[Tensor, "b 1 t s"] | None = None

    @property
    def state(self) -> State | None:
        """Cached tensors of this layer and loop pass, or None."""
        return self.cache.states.get(self.slot) if self.cache is not None else None

    def keep(self, state: State) -> None:
        """Cache the tensors of this layer and loop pass; does nothing without a cache."""
        if self.cache is not None:
            self.cache.states[self.slot] = state

    @property
    def new_real(self) -> Bool[Tensor, "b t"] | None:
        """Mask of the new tokens that are not padding; None: all are real."""
        if self.gap is None:
            return self.padding[:, self.seen :] if self.padding is not None else None
        length = self.rotary[0].shape[1]
        return torch.arange(length, device=self.gap.device)[None] >= self.gap

    def append(self, past: Tensor, new: Tensor, dim: int) -> Tensor:
        """Concatenate cached and new columns, so that every row ends with its real tokens."""
        whole = torch.cat((past, new), dim=dim)
        return whole if self.gap is None else close_gaps(whole, new.shape[dim], self.gap, dim)

    @property
    def mask(self) -> Bool[Tensor, "b 1 t s"] | None:
        """Attention mask: True at keys that are neither later than the query nor padding.

        Padding attends to itself, so that no row is empty. None: plain causal, or one new token that sees
        all. Built lazily.
        """
        if self.padding is None and (self.rotary[0].shape[1] == 1 or not self.seen):
            return None
        if self._mask is None:
            self._mask = self._build_mask()
        return self._mask

    def _build_mask(self) -> Bool[Tensor, "b 1 t s"]:
        batch, length, _ = self.rotary[0].shape
        device = self.rotary[0].device
        total = self.seen + length
        rows = torch.arange(self.seen, total, device=device)[:, None]
        columns = torch.arange(total, device=device)[None]
        mask = (columns <= rows)[None, None].expand(batch, 1, length, total)
        if self.padding is not None:
            mask = (mask & self.padding[:, None, None, :]) | (columns == rows)
        return mask
