"""Settings of healing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.training.pretrain import add_budget_problems, evaluation_points
from studies.training.settings import TrainSettings
from surgery.config.problems import Problems, nearest

KL_SHARES = {"ce": 0.0, "kl": 1.0, "both": 0.5}  # weight of the divergence from the teacher, by loss

# Tokens per step: a small budget has few large steps, and small ones leave a GPU idle.
LARGE_STEP, SMALL_STEP = 16_384, 4_096
LARGE_BUDGET = 1_000_000


@dataclass(frozen=True)
class HealSettings:
    """Token budget, loss and learning rates of a healing.

    Attributes:
        tokens: training tokens.
        seq_len: tokens per sequence.
        batch_tokens: tokens per step; None: chosen by the budget.
        loss: `ce` (cross-entropy with the text), `kl` (KL divergence from the original model), or `both`,
            their mean.
        lr: peak learning rate of the tensors that were carried over.
        lr_new: peak learning rate of the others; None: `lr`.
        freeze: patterns (as of `fnmatch`) of parameters that are not trained.
        eval_tokens: held-out tokens of every evaluation.
        eval_every: steps between evaluations, each of which is also a checkpoint; None: chosen by the budget.
        seed: of the order of the text and of the noise of HDPL.
    """

    tokens: int
    seq_len: int = 512
    batch_tokens: int | None = None
    loss: str = "both"
    lr: float = 3e-4
    lr_new: float | None = None
    freeze: tuple[str, ...] = ()
    eval_tokens: int = 32_768
    eval_every: int | None = None
    seed: int = 0

    @property
    def step_tokens(self) -> int:
        """Tokens per step, in whole sequences."""
        if self.batch_tokens is not None:
            return self.batch_tokens
        size = LARGE_STEP if self.tokens >= LARGE_BUDGET else SMALL_STEP
        return max(1, size // self.seq_len) * self.seq_len

    def training(self) -> TrainSettings:
        """Return the settings of the training loop."""
        # no weight decay: weights that are good already would shrink towards zero
        settings = TrainSettings(
            tokens=self.tokens, seq_len=self.seq_len, batch_tokens=self.step_tokens, lr=self.lr,
            weight_decay=0.0, eval_tokens=self.eval_tokens,
            eval_at=evaluation_points(self.tokens, self.eval_tokens), order_seed=self.seed,
        )  # fmt: skip
        if self.eval_every is None:
            return settings
        steps = range(self.eval_every, settings.steps, self.eval_every)
        return replace(settings, eval_at=(*(step / settings.steps for step in steps), 1.0))


def check_heal(settings: HealSettings) -> None:
    """Check the settings that a command line gave.

    Raises:
        UserError: an unknown loss, or less than one step of whole sequences; all problems at once.
    """
    problems = Problems()
    if settings.loss not in KL_SHARES:
        rule = f"must be one of {', '.join(KL_SHARES)}"
        problems.add("--heal-loss", settings.loss, rule, nearest(settings.loss, tuple(KL_SHARES)))
    add_budget_problems(settings.training(), "--heal", problems)
    problems.raise_if_any("can't train like that")
