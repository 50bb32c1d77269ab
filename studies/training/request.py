"""A training from scratch as it is asked for: checked, given its text, and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from studies.data import TokenData
from studies.training.compilation import check_compile
from studies.training.devices import check_memory, pick_device
from studies.training.loop import Progress, TrainResult
from studies.training.pretrain import DataProgress, check_budget, evaluation_points, open_text, pretrain
from studies.training.settings import TrainSettings
from studies.training.threads import choose_threads
from surgery.architecture import Architecture
from surgery.hf.staging import check_target


@dataclass(frozen=True)
class TrainRequest:
    """Options of a training. They are those of `nas train`, and None means the same default.

    Attributes:
        architecture: what to train.
        output: folder for the model.
        data: text: a prepared folder or a corpus.
        tokenizer: None: a byte-pair encoding of the model's vocabulary size.
        tokens: training tokens.
        seq_len: tokens per sequence.
        batch_tokens: tokens per optimizer step.
        optimizer: `adamw`, or `muon` for the matrices of layers.
        lr: peak learning rate.
        warmup: share of the steps.
        eval_tokens: held-out tokens for the validation loss.
        threads: CPU threads; None: by a rule (`choose_threads`).
        export: `auto` writes a class of transformers if one computes the same; `nas` always ours.
    """

    architecture: Architecture
    output: Path
    data: str = "builtin"
    tokenizer: str | None = None
    tokens: int = 20_000_000
    seq_len: int = 512
    batch_tokens: int = 32_768
    optimizer: str = "adamw"
    lr: float = 1e-3
    lr_rule: str = "roles"
    warmup: float = 0.05
    weight_decay: float = 0.1
    eval_tokens: int = 65_536
    seed: int = 0
    overwrite: bool = False
    device: str = "auto"
    compile: str = "auto"
    cpu_precision: str | None = None
    threads: int | None = None
    export: str = "auto"

    @property
    def settings(self) -> TrainSettings:
        """Settings of the training loop."""
        return TrainSettings(
            tokens=self.tokens,
            seq_len=self.seq_len,
            batch_tokens=self.batch_tokens,
            optimizer=self.optimizer,
            lr=self.lr,
            lr_rule=self.lr_rule,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            eval_tokens=self.eval_tokens,
            eval_at=evaluation_points(self.tokens, self.eval_tokens),
            order_seed=self.seed,
            compile=self.compile,
            cpu_precision=self.cpu_precision or TrainSettings.cpu_precision,
        )

    def check(self) -> None:
        """Check everything that can be checked before the text is read.

        Raises:
            UserError: an option is not valid, the folder can't be written, or the memory is too small.
        """
        device = pick_device(self.device)
        check_compile(self.compile, device)
        check_target(self.output, overwrite=self.overwrite)
        check_memory({"architecture": self.architecture}, device, self.optimizer)
        check_budget(self.settings)

    def open_text(self, progress: DataProgress | None = None) -> TokenData:
        """Return the tokens to train on, prepared if they are not yet.

        Raises:
            UserError: the text can't be read.
        """
        tokenizer = self.tokenizer or f"bpe:{self.architecture.backbone.vocab_size}"
        return open_text(self.data, tokenizer, self.tokens, progress)

    def run(self, text: TokenData, on_step: Callable[[Progress], None] | None = None) -> TrainResult:
        """Train and write the model's folder; sets the number of torch's CPU threads.

        Raises:
            UserError: text and architecture don't fit each other, or the folder can't be written.
            TrainingFailed: the loss became NaN, infinite or exploded.
        """
        torch.set_num_threads(choose_threads(self.threads, self.architecture.backbone))
        return pretrain(
            self.architecture,
            text,
            self.settings,
            self.output,
            seed=self.seed,
            device=pick_device(self.device),
            stock=self.export == "auto",
            overwrite=self.overwrite,
            on_step=on_step,
        )
