"""Measuring a whole design: its distance from the original, its loss, and retrieval by generating."""

from __future__ import annotations

import math
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.library import LibrarySettings
from studies.data import TokenData
from studies.evaluation.evaluation import as_causal
from studies.evaluation.retrieval import TASKS, draw_prompts, retrieve
from studies.healing.teacher import Teacher
from studies.library.divergence import TeacherLogits, compare
from studies.library.prefix import batch_size
from studies.library.scores import Score
from studies.library.text import filler, stretch
from studies.training.devices import autocast, to_device
from studies.training.loop import Interrupted
from surgery.hf.tokenizer import load_tokenizer
from surgery.model import HybridLM

MOST_KEPT = 2**30  # bytes of a teacher's outputs that are kept for the next design


@torch.no_grad()
def measure(
    model: HybridLM,
    teacher: Teacher,
    data: TokenData,
    settings: LibrarySettings,
    sample: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Measure a model on held-out text.

    Args:
        model: on the teacher's device, in evaluation mode.
        teacher: the original model.
        data: tokens by the model's own tokenizer.
        settings: number and length of the sequences, and number of prompts.
        sample: which stretch of the held-out text; another one gives a replicate.
        should_stop: asked before every batch.

    Returns:
        `kl` (KL(teacher || model), nats/token), `val_loss` (nats/token), `val_bpb` (bits/byte) and, with
        prompts, `retrieval` (share of right answers); each also with `_se`, its standard error over sequences
        or prompts.

    Raises:
        Interrupted: `should_stop` returned True.
        UserError: there is no such stretch of text.
    """
    rows = stretch(data, settings, sample)
    reference = _reference(teacher, data, settings, rows)
    head = teacher.model.head.weight.float()
    losses, kls = [], []
    tokens = torch.from_numpy(data.batch(rows, settings.seq_len, "val"))
    for index, batch in enumerate(tokens.split(batch_size(teacher, tokens[:, :-1]))):
        if should_stop():
            raise Interrupted
        ids = to_device(batch.numpy(), teacher.device)
        with autocast(teacher.device):
            hidden = model(ids[:, :-1])
        logits = TeacherLogits(reference.outputs(index, ids[:, :-1]), head, keep=0)
        result = compare(hidden, logits, ids[:, 1:])
        losses.append(result.loss.double().mean(1).cpu().numpy())
        kls.append(result.kl.double().mean(1).cpu().numpy())
    nats = np.concatenate(losses)
    bytes_ = np.array([
        data.val_bytes(row * settings.seq_len + 1, (row + 1) * settings.seq_len + 1) for row in rows
    ])  # fmt: skip
    results = {"kl": Score.of(np.maximum(np.concatenate(kls), 0.0)), "val_loss": Score.of(nats)}
    results["val_bpb"] = _ratio(nats * settings.seq_len / math.log(2), bytes_)
    if settings.prompts:
        results["retrieval"] = Score.of(_retrieval(model, teacher, data, settings, sample))
    named = {name: (score.mean, score.standard_error) for name, score in results.items()}
    return {key: value for name, (mean, error) in named.items()
            for key, value in ((name, mean), (f"{name}_se", error))}  # fmt: skip


class _Reference:
    """The teacher's normed outputs on one stretch of text, computed once and kept in the CPU's memory."""

    def __init__(self, model: HybridLM, device: torch.device) -> None:
        self.model, self.device = model, device
        self.known: dict[int, Tensor] = {}
        self.bytes = 0

    def outputs(self, index: int, tokens: Tensor) -> Tensor:
        """Return the outputs on the tokens of batch `index`."""
        if index in self.known:
            return self.known[index].to(self.device)
        with autocast(self.device):
            outputs: Tensor = self.model(tokens)
        if self.bytes + outputs.nbytes <= MOST_KEPT:
            self.known[index] = outputs.cpu()
            self.bytes += outputs.nbytes
        return outputs


# of each teacher the last one, with what it is about
_REFERENCES: WeakKeyDictionary[Teacher, tuple[object, _Reference]] = WeakKeyDictionary()


def _reference(teacher: Teacher, data: TokenData, settings: LibrarySettings, rows: range) -> _Reference:
    """Return the teacher's outputs on these sequences, those that an earlier call computed included."""
    about = (data.content_hash, settings.seq_len, rows)
    if teacher not in _REFERENCES or _REFERENCES[teacher][0] != about:
        _REFERENCES[teacher] = about, _Reference(teacher.model, teacher.device)
    return _REFERENCES[teacher][1]


def _ratio(bits: NDArray[np.float64], size: NDArray[np.int64]) -> Score:
    """Return the ratio of two sums over sequences, and its standard error (delta method)."""
    ratio = float(bits.sum() / max(1, size.sum()))
    residuals = bits - ratio * size
    count = len(bits)
    error = math.sqrt(count / (count - 1) * float(np.square(residuals).sum())) / max(1, int(size.sum()))
    return Score(ratio, error)


def _retrieval(
    model: HybridLM, teacher: Teacher, data: TokenData, settings: LibrarySettings, sample: int
) -> list[float]:
    """Return 1 for each prompt that the model answers rightly, else 0; all tasks together."""
    tokenizer = load_tokenizer(teacher.source.folder)
    text = filler(data)
    right: list[float] = []
    with as_causal(model) as causal, autocast(teacher.device):
        for task in TASKS:
            prompts, new_tokens = draw_prompts(
                task, text, tokenizer, length=settings.seq_len, number=settings.prompts, seed=sample
            )
            right += [float(answer) for answer in retrieve(causal, prompts, new_tokens, tokenizer)]
    return right
