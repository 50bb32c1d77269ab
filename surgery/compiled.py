"""Regional compilation: blocks are compiled, not the model, and blocks of one kind share their code.

A model of a search has few kinds of blocks, each many times (layers, passes, trials). A kind is traced once a
process and generated once a machine; a whole model would be compiled anew for every architecture.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from surgery.context import Context

MOST_KINDS = 1024  # kept a process; Dynamo would stop at 8 and run all others uncompiled, without a word


class CompiledBlocks:
    """Runs a block as `block(h, context)` does, compiled where it trains.

    Compiled code takes tensors and the pass's window and makes a context of its own. The model's context
    never crosses the border: its slot and its growing list of losses change from layer to layer, and each
    change would compile the block again. Evaluation and decoding are not compiled, for they take too little
    of a run to pay for code of their own.
    """

    def __init__(self, mode: str | None = None) -> None:
        """`mode`: of torch.compile."""
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
        y, losses = self.code(block, h, context.rotary, context.window)
        context.losses += losses
        return y


def block_pass(
    block: nn.Module, h: Float[Tensor, "b t d"], rotary: tuple[Tensor, Tensor], window: int | None
) -> tuple[Float[Tensor, "b t d"], list[Tensor]]:
    """What is compiled: (output, auxiliary losses) of a block in training."""
    context = Context(rotary, window=window)
    return block(h, context), context.losses
