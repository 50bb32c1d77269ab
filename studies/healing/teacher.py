"""The original model, as the teacher of the rewritten one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from studies.data import TokenData
from studies.healing.settings import HealSettings
from studies.training.devices import autocast, to_device
from studies.training.validation import Evaluation, evaluate, held_out_sequences
from surgery.apply.execute import execute
from surgery.apply.plan import plan
from surgery.apply.source import SourceModel
from surgery.hf.tokenizer import load_tokenizer
from surgery.model import HybridLM
from surgery.ops.distillation import linear_distillation

OnBatch = Callable[[int, int], None]  # (batches done, all batches)


class Teacher:
    """The original model in inference mode, with its held-out losses.

    On CUDA its matrices are in bfloat16, as autocast would compute with them; embeddings and norms are in
    float32, so that its residual stream is as precise as the student's.
    """

    def __init__(self, source: SourceModel, device: torch.device) -> None:
        """Read the checkpoint onto the device."""
        self.source, self.device = source, device
        self.model = original(source).eval().requires_grad_(False)
        for name, parameter in self.model.named_parameters():
            parameter.data = placed(name, parameter.data, device)
        self._losses: dict[tuple[str, int, int], Evaluation] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's own tokenizer."""
        return load_tokenizer(self.source.folder)

    def loss(self, data: TokenData, settings: HealSettings, on_batch: OnBatch | None = None) -> Evaluation:
        """Return the teacher's held-out loss, measured once for each text."""
        key = (data.content_hash, settings.seq_len, settings.eval_tokens)
        if key not in self._losses:
            self._losses[key] = measure(self.model, data, settings, self.device, on_batch)
        return self._losses[key]

    @torch.no_grad()
    def divergence(self, model: HybridLM, data: TokenData, settings: HealSettings) -> float:
        """Return KL(teacher || model) on the held-out text, in nats/token."""
        model.to(self.device).eval()
        rows = held_out_sequences(data, settings.seq_len, settings.eval_tokens)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for indices in torch.arange(rows).split(settings.step_tokens // settings.seq_len):
            tokens = to_device(data.batch(indices.tolist(), settings.seq_len, "val"), self.device)
            with autocast(self.device):
                wanted = self.model(tokens[:, :-1])
                total += linear_distillation(
                    model(tokens[:, :-1]),
                    model.head.weight,
                    tokens[:, 1:],
                    wanted,
                    self.model.head.weight,
                    1.0,
                )[2]
        return total.item() / (rows * settings.seq_len)


def placed(name: str, tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of a model on the device, in the dtype that a `Teacher` has it in there.

    `name` is the tensor's in the model.
    """
    matrix = tensor.ndim == 2 and not name.startswith("embed.")
    low = matrix and device.type == "cuda"
    return tensor.to(device, torch.bfloat16 if low else torch.float32)


def original(source: SourceModel) -> HybridLM:
    """Return the original model, as the result of a surgery into its own architecture."""
    return execute(source, plan(source, source.architecture))[0]


def measure(
    model: HybridLM,
    data: TokenData,
    settings: HealSettings,
    device: torch.device,
    on_batch: OnBatch | None = None,
) -> Evaluation:
    """Return a model's loss on the held-out text.

    Args:
        model: the model; it is moved to the device.
        data: tokens by its own tokenizer.
        settings: with the length of sequences and the number of held-out tokens.
        device: where to compute.
        on_batch: called before every batch.
    """
    sequences = held_out_sequences(data, settings.seq_len, settings.eval_tokens)
    batches = -(-sequences // (settings.step_tokens // settings.seq_len))
    done = iter(range(batches))
    return evaluate(
        model.to(device), data, seq_len=settings.seq_len, max_tokens=settings.eval_tokens,
        batch_tokens=settings.step_tokens, device=device,
        on_batch=None if on_batch is None else lambda: on_batch(next(done), batches),
    )  # fmt: skip
