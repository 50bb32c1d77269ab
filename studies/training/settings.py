"""Settings of a training run: its token budget, optimizer and learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass

from studies.files.defaults import DEFAULT_CPU_PRECISION
from studies.stats.rungs import step_at

OPTIMIZER_NAMES = {"adamw": "AdamW", "muon": "Muon for matrices of layers, AdamW for all else"}


@dataclass(frozen=True)
class TrainSettings:
    """Token budget and optimizer settings of a training run.

    The budget is in tokens rather than steps, so that architectures are comparable.
    """

    tokens: int
    seq_len: int
    batch_tokens: int
    optimizer: str = "adamw"  # or `muon`: see `make_optimizer`
    lr: float = 3e-3
    lr_rule: str = "uniform"  # or `roles`, `width`: see `make_optimizer`
    warmup: float = 0.05  # a share of the steps if below 1, else a number of tokens
    final_lr: float = 0.1  # final learning rate of the cosine, as a share of the peak
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    eval_tokens: int = 65536
    eval_at: tuple[float, ...] = (1.0,)  # shares of the budget at which the held-out loss is measured
    order_seed: int = 0  # data order: the same for all architectures of a study
    compile: str = "off"  # blocks: off, auto, max
    cpu_precision: str = (
        DEFAULT_CPU_PRECISION  # or bfloat16: of matrix products on a CPU; always bfloat16 on CUDA
    )

    @property
    def steps(self) -> int:
        """Optimizer steps of the budget, at least 1."""
        return max(1, self.tokens // self.batch_tokens)

    @property
    def warmup_steps(self) -> int:
        """Steps of linear learning-rate warm-up."""
        if self.warmup < 1:
            return step_at(self.warmup, self.steps)
        return max(1, round(self.warmup / self.batch_tokens))

    @property
    def eval_steps(self) -> frozenset[int]:
        """Steps after which the held-out loss is measured, the last step included."""
        return frozenset(step_at(share, self.steps) for share in (*self.eval_at, 1.0))
