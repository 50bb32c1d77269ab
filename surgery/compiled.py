"""Regional compilation: blocks are compiled instead of the model, and equal blocks share their code.

The models of a search have few kinds of blocks, each used many times (layers, passes, trials). A kind is
traced once per process and its code generated once per machine; whole models would be compiled anew for every
architecture.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from surgery.context import Context
from surgery.ops.rotary import Rotary
from surgery.projections.deltas import Deltas

MOST_KINDS = 1024  # per process; Dynamo's default of 8 silently falls back to eager


class CompiledBlocks:
    """Callable with the effect of `block(h, context)`, compiled in training.

    Compiled code takes tensors, the pass's window and, if it matters, the pass's number, and builds its own
    context. The model's context is not passed to it: its slot and its growing list of losses change from
    layer to layer, and each change would recompile the block. Evaluation and decoding are not compiled: they
    take too little of a run to repay compilation.
    """

    def __init__(self, mode: str | None = None) -> None:
        """Set up compilation; `mode` as for torch.compile."""
        import torch._dynamo

        for limit in ("recompile_limit", "accumulated_recompile_limit"):
            setattr(torch._dynamo.config, limit, max(MOST_KINDS, getattr(torch._dynamo.config, limit)))
        self.code = torch.compile(block_pass, mode=mode)

    def __call__(
        self, block: nn.Module, h: Float[Tensor, "b t d"], context: Context
    ) -> Float[Tensor, "b t d"]:
        plain = context.cache is None and context.padding is None and not context.seen
        if not (plain and block.training and torch.is_grad_enabled()):
            y: Tensor = block(h, context)
            return y
        loop = context.slot[1] if _differs(block) else 0
        y, losses = self.code(block, h, context.rotary, context.window, loop)
        context.losses += losses
        return y


def block_pass(
    block: nn.Module, h: Float[Tensor, "b t d"], rotary: Rotary, window: int | None, loop: int
) -> tuple[Float[Tensor, "b t d"], list[Float[Tensor, ""]]]:
    """Return (output, auxiliary losses) of a block in training; this function is compiled."""
    context = Context(rotary, window=window, slot=(0, loop))
    return block(h, context), context.losses


def _differs(block: nn.Module) -> bool:
    """Return whether the block computes something else in each pass of a loop."""
    return any(isinstance(module, Deltas) for module in block.modules())
