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
from studies.evaluation.retrieval import retrieve
from studies.healing.teacher import Teacher
from studies.library.divergence import TeacherLogits, compare
from studies.library.passages import Asked, Passages, answer_passages, asked, means, text_passages
from studies.library.prefix import batch_size
from studies.library.scores import Score
from studies.library.text import stretch
from studies.training.devices import autocast
from studies.training.loop import Interrupted
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
        prompts, `retrieval` (share of right answers) and `retrieval_kl` (KL(teacher || model) at the answers,
        nats/token); each also with `_se`, its standard error over sequences or prompts.

    Raises:
        Interrupted: `should_stop` returned True.
        UserError: there is no such stretch of text.
    """
    rows = stretch(data, settings, sample)
    passages = text_passages(data, rows, settings, teacher.device)
    kls, nats = _compared(model, teacher, passages, (data.content_hash, settings.seq_len, rows), should_stop)
    bytes_ = np.array([
        data.val_bytes(row * settings.seq_len + 1, (row + 1) * settings.seq_len + 1) for row in rows
    ])  # fmt: skip
    results = {"kl": Score.of(kls), "val_loss": Score.of(nats)}
    results["val_bpb"] = _ratio(nats * settings.seq_len / math.log(2), bytes_)
    if settings.prompts:
        drawn = asked(teacher, data, settings, settings.prompts, sample)
        results["retrieval"] = Score.of(_retrieval(model, teacher, drawn))
        passages = answer_passages(teacher, drawn, settings)
        about = (data.content_hash, settings.seq_len, settings.prompts, sample)
        kls, _ = _compared(model, teacher, passages, about, should_stop)
        results["retrieval_kl"] = Score.of(kls)
    named = {name: (score.mean, score.standard_error) for name, score in results.items()}
    return {key: value for name, (mean, error) in named.items()
            for key, value in ((name, mean), (f"{name}_se", error))}  # fmt: skip


def _compared(
    model: HybridLM, teacher: Teacher, passages: Passages, about: object, should_stop: Callable[[], bool]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return KL(teacher || model) and the loss of each sequence (nats/token); `about` names the passages."""
    reference = _reference(teacher, about)
    head = teacher.model.head.weight.float()
    kls, losses = [], []
    size = batch_size(teacher, passages.tokens[:, :-1])
    for index, (ids, counted) in enumerate(zip(*(part.split(size) for part in passages), strict=True)):
        if should_stop():
            raise Interrupted
        batch = Passages(ids, counted)
        with autocast(teacher.device):
            hidden = model(ids[:, :-1])[counted]
        logits = TeacherLogits(reference.outputs(index, batch)[None], head, keep=0)
        result = compare(hidden[None], logits, batch.targets[None])
        kls += means(result.kl[0], batch.sizes)
        losses += means(result.loss[0], batch.sizes)
    return np.maximum(kls, 0.0), np.array(losses)


class _Reference:
    """The teacher's normed outputs on some passages, computed once and kept in the CPU's memory."""

    def __init__(self, model: HybridLM, device: torch.device) -> None:
        self.model, self.device = model, device
        self.known: dict[int, Tensor] = {}
        self.bytes = 0

    def outputs(self, index: int, batch: Passages) -> Tensor:
        """Return the outputs (m, d) on batch `index`, where predictions count."""
        if index in self.known:
            return self.known[index].to(self.device)
        with autocast(self.device):
            outputs: Tensor = self.model(batch.tokens[:, :-1])[batch.counted]
        if self.bytes + outputs.nbytes <= MOST_KEPT:
            self.known[index] = outputs.cpu()
            self.bytes += outputs.nbytes
        return outputs


# of each teacher the latest ones, by what they are about
_REFERENCES: WeakKeyDictionary[Teacher, dict[object, _Reference]] = WeakKeyDictionary()
_KEPT = 2  # text and answers of one stretch


def _reference(teacher: Teacher, about: object) -> _Reference:
    """Return the teacher's outputs on some passages, those that an earlier call computed included."""
    known = _REFERENCES.setdefault(teacher, {})
    if about not in known:
        for old in list(known)[: len(known) + 1 - _KEPT]:
            del known[old]
        known[about] = _Reference(teacher.model, teacher.device)
    return known[about]


def _ratio(bits: NDArray[np.float64], size: NDArray[np.int64]) -> Score:
    """Return the ratio of two sums over sequences, and its standard error (delta method)."""
    ratio = float(bits.sum() / max(1, size.sum()))
    residuals = bits - ratio * size
    count = len(bits)
    error = math.sqrt(count / (count - 1) * float(np.square(residuals).sum())) / max(1, int(size.sum()))
    return Score(ratio, error)


def _retrieval(model: HybridLM, teacher: Teacher, drawn: list[Asked]) -> list[float]:
    """Return 1 for each prompt that the model answers rightly, else 0; all tasks together."""
    right: list[float] = []
    with as_causal(model) as causal, autocast(teacher.device):
        for prompts, new_tokens in drawn:
            right += [float(answer) for answer in retrieve(causal, prompts, new_tokens, teacher.tokenizer)]
    return right
