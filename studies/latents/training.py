"""Training an adapter: the offsets of all latents learn a text, and all weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from studies.data import TokenData
from studies.evaluation.model_folder import Checkpoint
from studies.healing.parts import training_only
from studies.latents.objective import WithoutNoise
from studies.training.best import Best
from studies.training.loop import Progress, TrainResult, train
from studies.training.pretrain import (
    DataProgress,
    add_budget_problems,
    evaluation_points,
    open_text,
    record_of,
)
from studies.training.settings import TrainSettings
from studies.training.validation import Evaluation, evaluate
from surgery.config.problems import Problem, Problems, UserError
from surgery.latents.adapter import Adapter, check_adapter_target, hash_weights
from surgery.latents.change import Change, Steer
from surgery.latents.projections import latent_projections, ranks_of
from surgery.model import HybridLM


@dataclass(frozen=True)
class AdapterRequest:
    """Options of a training of an adapter. They are those of `nas latents train`.

    Attributes:
        output: folder for the adapter.
        data: text: a prepared folder or a corpus.
        tokens: training tokens.
        seq_len: tokens per sequence.
        batch_tokens: tokens per optimizer step.
        lr: peak learning rate of the offsets.
        eval_tokens: held-out tokens of every evaluation.
        seed: of the order of the text.
    """

    output: Path
    data: str = "builtin"
    tokens: int = 500_000
    seq_len: int = 512
    batch_tokens: int = 4096
    lr: float = 1e-2
    eval_tokens: int = 32_768
    seed: int = 0

    @property
    def settings(self) -> TrainSettings:
        """Settings of the training loop; without weight decay, which would draw offsets to zero."""
        return TrainSettings(
            tokens=self.tokens, seq_len=self.seq_len, batch_tokens=self.batch_tokens, lr=self.lr,
            weight_decay=0.0, eval_tokens=self.eval_tokens,
            eval_at=evaluation_points(self.tokens, self.eval_tokens), order_seed=self.seed,
        )  # fmt: skip

    def check(self) -> None:
        """Check what can be checked before the model is loaded.

        Raises:
            UserError: less than one step of whole sequences, or a folder that can't be written.
        """
        problems = Problems()
        add_budget_problems(self.settings, "--tokens", problems)
        problems.raise_if_any("can't train like that")
        check_adapter_target(self.output)

    def open_text(self, checkpoint: Checkpoint, on_data: DataProgress | None = None) -> TokenData:
        """Return the text as tokens of the model's own tokenizer, prepared if it is not yet.

        Raises:
            UserError: the text can't be read, or sequences exceed the model's context.
        """
        if self.seq_len > checkpoint.longest:
            rule = f"exceeds the model's context of {checkpoint.longest} tokens"
            problem = Problem("--seq-len", self.seq_len, rule, "give fewer")
            raise UserError("model and data don't fit", [problem])
        return open_text(self.data, str(checkpoint.folder), self.tokens, on_data)

    def run(
        self, checkpoint: Checkpoint, text: TokenData, on_step: Callable[[Progress], None] | None = None
    ) -> Trained:
        """Train the offsets and write the adapter.

        Raises:
            UserError: the model has no latents, text and model don't fit, or the folder can't be written.
            TrainingFailed: the loss is not finite or exploded.
        """
        base_hash = hash_weights(checkpoint.model)
        trained = train_offsets(
            checkpoint.model.model, text, self.settings, seed=self.seed, device=checkpoint.device,
            on_step=on_step,
        )  # fmt: skip
        record = record_of(text, self.settings, trained.result, self.seed, checkpoint.device)
        losses = {"before": asdict(trained.before), "after": asdict(trained.after), "step": trained.step}
        made = {"by": "training", **losses, **record}
        Adapter(trained.offsets, checkpoint.name, base_hash, made).save(self.output)
        return trained


@dataclass(frozen=True)
class Trained:
    """Offsets with the lowest held-out loss of a training.

    Attributes:
        offsets: as those of an `Adapter`.
        before: held-out loss of the model without them.
        after: with them.
        step: at which they were kept; 0 if no step was better than none, and all offsets are zero.
        result: of the loop.
    """

    offsets: dict[Any, torch.Tensor]
    before: Evaluation
    after: Evaluation
    step: int
    result: TrainResult

    @property
    def parameters(self) -> int:
        """Number of offsets."""
        return sum(len(offset) for offset in self.offsets.values())


def train_offsets(
    model: HybridLM,
    text: TokenData,
    settings: TrainSettings,
    *,
    seed: int,
    device: torch.device,
    on_step: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train an offset for every latent of a model, which ends as it was but in float32.

    Args:
        model: the model, with HDPL projections.
        text: by the model's own tokenizer.
        settings: of the loop.
        seed: of the loop.
        device: where to train.
        on_step: called with the progress.
    """
    model.to(device).float()
    projections = latent_projections(model)
    for name, rank in ranks_of(projections).items():
        projection = projections[name]
        projection.steer = Steer(Change.identity(rank), projection.blocks, trains=True)
    try:
        own = frozenset(name for name, _ in model.named_parameters() if name.endswith(".steer.offset"))
        before = evaluate(
            model, text, seq_len=settings.seq_len, max_tokens=settings.eval_tokens,
            batch_tokens=settings.batch_tokens, device=device,
        )  # fmt: skip
        best = Best(model, dict.fromkeys(model.state_dict(), torch.float32), before)
        with training_only(model, own):
            result = train(
                model, text, settings, seed=seed, device=device, objective=WithoutNoise(), best=best,
                on_step=on_step,
            )  # fmt: skip
        best.write_to(model)
        offsets = {name: module.steer.offset.detach().cpu() for name, module in projections.items()}
    finally:
        for projection in projections.values():
            projection.steer = None
        model.eval()
    return Trained(offsets, before, best.evaluation, best.step, result)
