"""Settings of healing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.healing.adapters import check_peft
from studies.healing.parts import CARRIED, NEAR
from studies.training.pretrain import add_budget_problems, add_optimizer_problem
from studies.training.settings import TrainSettings
from surgery.config.problems import Problems, nearest

KL_SHARES = {"ce": 0.0, "kl": 1.0, "both": 0.5}  # weight of the divergence from the teacher, by loss

# Tokens per step: a small budget has few large steps, and small ones leave a GPU idle.
LARGE_STEP, SMALL_STEP = 16_384, 4_096
LARGE_BUDGET = 1_000_000

FRESH_RATE = 4  # measured in docs/results/surgery.md
MOST_EVALUATIONS = 10


@dataclass(frozen=True)
class HealSettings:
    """Token budgets, loss and learning rates of a healing.

    Attributes:
        tokens: training tokens.
        align_tokens: tokens of the alignment before it.
        seq_len: tokens per sequence.
        batch_tokens: tokens per step; None: chosen by the budget.
        loss: `ce` (cross-entropy with the text), `kl` (KL divergence from the original model), or `both`,
            their mean.
        optimizer: `adamw` or `muon` (`studies.training.optimizer.make_optimizer`); the alignment has AdamW.
        lr: peak learning rate of the tensors that were carried over.
        lr_new: peak learning rate of the others; None: `lr` for those fitted to the original's weights or
            pruned, and FRESH_RATE times that for those transplanted from them or new.
        hidden_weight: weight of the distance between the hidden states of both models, see `Distillation`.
        lora: rank of adapters that are trained in place of the tensors that were carried over, and merged
            into them in the end; None: those tensors are trained themselves.
        checkpoint_activations: recompute the activations of each layer in the backward pass.
        freeze: patterns (as of `fnmatch`) of parameters that are not trained.
        warmup: share of the steps in which the rates rise.
        final_lr: rates at the end of the cosine, as a share of the peaks.
        align_lr: peak learning rate of new and fitted tensors in the alignment.
        align_lr_carried: that of the transplanted, pruned and carried tensors of the same parts.
        eval_tokens: held-out tokens of every evaluation.
        eval_every: steps between evaluations; None: at most MOST_EVALUATIONS, chosen by the budget.
        seed: of the order of the text and of the noise of HDPL.
    """

    tokens: int
    align_tokens: int = 0
    seq_len: int = 512
    batch_tokens: int | None = None
    loss: str = "both"
    optimizer: str = TrainSettings.optimizer
    lr: float = 3e-4
    lr_new: float | None = None
    hidden_weight: float = 0.0
    lora: int | None = None
    checkpoint_activations: bool = False
    freeze: tuple[str, ...] = ()
    warmup: float = TrainSettings.warmup
    final_lr: float = TrainSettings.final_lr
    align_lr: float = 1e-3
    align_lr_carried: float = 1e-4
    eval_tokens: int = 32_768
    eval_every: int | None = None
    seed: int = 0

    @property
    def step_tokens(self) -> int:
        """Tokens per step, in whole sequences."""
        if self.batch_tokens is not None:
            return self.batch_tokens
        size = LARGE_STEP if self.tokens + self.align_tokens >= LARGE_BUDGET else SMALL_STEP
        return max(1, size // self.seq_len) * self.seq_len

    def rate(self, action: str) -> float:
        """Return the peak learning rate of tensors that a plan treats so."""
        if action in CARRIED:
            return self.lr
        if self.lr_new is not None:
            return self.lr_new
        return self.lr if action in NEAR else FRESH_RATE * self.lr

    def training(self) -> TrainSettings:
        """Return the settings of the loop for the training of the whole model."""
        return replace(self._loop(self.tokens, self.lr), optimizer=self.optimizer)

    def alignment(self, parts: int) -> TrainSettings:
        """Return the settings of the loop for the alignment of so many parts, whose gradients are clipped
        together."""
        return replace(self._loop(self.align_tokens, self.align_lr), clip=float(max(1, parts)))

    def _loop(self, tokens: int, lr: float) -> TrainSettings:
        # no weight decay: weights that are good already would shrink towards zero
        # an evaluation costs as much as training on a quarter of its tokens
        count = max(1, min(MOST_EVALUATIONS, tokens // (2 * self.eval_tokens)))
        settings = TrainSettings(
            tokens=tokens, seq_len=self.seq_len, batch_tokens=self.step_tokens, lr=lr, warmup=self.warmup,
            final_lr=self.final_lr, weight_decay=0.0, eval_tokens=self.eval_tokens,
            eval_at=tuple((index + 1) / count for index in range(count)), order_seed=self.seed,
        )  # fmt: skip
        if self.eval_every is None:
            return settings
        steps = range(self.eval_every, settings.steps, self.eval_every)
        return replace(settings, eval_at=(*(step / settings.steps for step in steps), 1.0))


def check_heal(settings: HealSettings) -> None:
    """Check the settings that a command line gave.

    Raises:
        UserError: an unknown loss or optimizer, less than one step of whole sequences (all problems at once),
            or no PEFT.
    """
    problems = Problems()
    if settings.loss not in KL_SHARES:
        rule = f"must be one of {', '.join(KL_SHARES)}"
        problems.add("--heal-loss", settings.loss, rule, nearest(settings.loss, tuple(KL_SHARES)))
    add_optimizer_problem(settings.training(), "--heal-optimizer", problems)
    if settings.lora is not None:
        check_peft(settings.lora)
    for option, training in (("--heal", settings.training()), ("--align", settings.alignment(1))):
        if training.tokens:
            add_budget_problems(training, option, problems)
    problems.raise_if_any("can't train like that")
