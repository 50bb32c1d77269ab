"""The recipe of a training run: its budget in tokens and the learning rate along it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from studies.stats.rungs import step_at


@dataclass(frozen=True)
class TrainSettings:
    """Budget and recipe. Tokens are counted, not steps, so that architectures compare."""

    tokens: int
    seq_len: int
    batch_tokens: int
    lr: float = 3e-3
    lr_rule: str = "uniform"  # or `roles`, `width`: see `make_optimizer`
    warmup: float = 0.05  # share of the steps if below 1, else tokens
    final_lr: float = 0.1  # share of the peak that the cosine ends at
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    eval_tokens: int = 65536
    eval_at: tuple[float, ...] = (1.0,)  # shares of the budget at which held-out loss is taken
    order_seed: int = 0  # data order: the same for all architectures of a study
    compile: str = "off"  # blocks: off, auto, max
    cpu_precision: str = "float32"  # of matrix products on a CPU, or bfloat16; on CUDA it is bfloat16

    @property
    def steps(self) -> int:
        return max(1, self.tokens // self.batch_tokens)

    @property
    def warmup_steps(self) -> int:
        """In which the learning rate rises."""
        if self.warmup < 1:
            return step_at(self.warmup, self.steps)
        return max(1, round(self.warmup / self.batch_tokens))

    @property
    def eval_steps(self) -> frozenset[int]:
        """Steps after which the held-out loss is taken; the last is one of them."""
        return frozenset(step_at(share, self.steps) for share in (*self.eval_at, 1.0))


def schedule(step: int, settings: TrainSettings) -> float:
    """Share of the peak learning rate at a step from 1: linear warm-up, then cosine to `final_lr`."""
    warmup = settings.warmup_steps
    if step <= warmup:
        return step / warmup
    done = (step - warmup) / max(1, settings.steps - warmup)
    return settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
