"""The original model's states on the held-out text, layer after layer.

A replacement of layer i is run from the original's states at its input: layers below are never run again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from studies.healing.teacher import Teacher
from studies.training.devices import autocast
from surgery.context import Context
from surgery.model import HybridLM
from surgery.ops.residual import add_norm

BATCH_TOKENS = {"cpu": 4096, "cuda": 16_384}  # that run through a layer together


class Prefix:
    """Inputs of one layer of the original model, for all sequences in batches.

    Attributes:
        layer: the layer; the number of layers after the last one.
    """

    def __init__(self, teacher: Teacher, tokens: Int[Tensor, "n t"]) -> None:
        """Start at the embeddings of the tokens, which are on the teacher's device."""
        assert teacher.model.architecture.loop_count == 1, "pretrained models have no loops"
        self.teacher, self.layer = teacher, 0
        with torch.no_grad():
            self.states = [teacher.model.embed(batch) for batch in tokens.split(batch_size(teacher, tokens))]

    @torch.no_grad()
    def advance(self) -> None:
        """Go to the input of the next layer."""
        block = self.teacher.model.layers[self.layer]
        for index, state in enumerate(self.states):
            with autocast(self.teacher.device):
                self.states[index] = block(state, _context(self.teacher.model, state))
        self.layer += 1

    @torch.no_grad()
    def outputs(self, block: nn.Module | None = None) -> Iterator[Float[Tensor, "b t d"]]:
        """Yield the normed output of the model for each batch, computed from this layer on.

        `block` is run in the place of this layer; None: the original's own.
        """
        model = self.teacher.model
        rest = list(model.layers[self.layer :])
        if block is not None:
            rest[0] = block
        for state in self.states:
            context = _context(model, state)
            with autocast(self.teacher.device):
                for layer in rest:
                    state = layer(state, context)
                hidden = add_norm(state, None, model.norm)[1]
            yield hidden  # outside of autocast, which would otherwise reach the caller


def batch_size(teacher: Teacher, tokens: Tensor) -> int:
    """Return the number of sequences that are run together."""
    return max(1, BATCH_TOKENS.get(teacher.device.type, BATCH_TOKENS["cpu"]) // tokens.shape[1])


def _context(model: HybridLM, state: Tensor) -> Context:
    return Context(model.rotary(0, state.shape[1], state.device))
