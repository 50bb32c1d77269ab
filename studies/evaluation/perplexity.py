"""Loss of any model on text, and its distance from a teacher: KL divergence, agreement of greedy tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from studies.evaluation.decoding import device_of
from studies.evaluation.model_folder import vocabulary
from studies.evaluation.text import Tokens
from studies.training.pretrain import RECORD
from surgery.config.json_source import read_object
from surgery.config.problems import Problem, UserError

SEQ_LEN = 512  # tokens of a window
BATCH_LOGITS = {"cpu": 2**26, "cuda": 2**28}  # logits of a batch, per model
CHUNK_LOGITS = 2**24  # logits that are compared at once, in float32


@dataclass(frozen=True)
class Perplexity:
    """Mean cross-entropy over `tokens` predicted tokens of `bytes` bytes of text.

    Attributes:
        bits_per_byte: None, as `bytes`, if the text is given as tokens only.
        teacher_loss: the teacher's mean cross-entropy; None, as the next two, without a teacher.
        kl: KL(teacher || model) in nats per token.
        agreement: share of the tokens for which both models predict the same most likely token.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int
    bytes: int | None
    seq_len: int
    text: str
    teacher_loss: float | None = None
    kl: float | None = None
    agreement: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@torch.no_grad()
def measure(
    model: Any,
    text: Tokens,
    *,
    seq_len: int,
    max_tokens: int | None = None,
    teacher: Any | None = None,
    on_tokens: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Measure the cross-entropy in windows of `seq_len` tokens that do not overlap.

    If the tokenizer begins texts with a special token, so does every window; otherwise the context of a
    window's first token is the token before it. The bytes are exactly those of the predicted tokens.

    Args:
        model: a causal LM of transformers in evaluation mode.
        text: tokens that the model has rows for.
        max_tokens: most predicted tokens, in whole windows; None for all.
        teacher: another causal LM with the same vocabulary.
        on_tokens: called after every batch with (tokens done, total tokens).

    Raises:
        UserError: too little text, losses that are not finite, or a teacher with another vocabulary.
    """
    targets = text.targets(seq_len, max_tokens)
    rows = max(1, _batch_logits(model) // (vocabulary(model) * seq_len))
    totals = torch.zeros(4, dtype=torch.float64)
    done = 0
    for batch in text.windows(seq_len, targets, rows):
        windows = torch.from_numpy(batch)
        totals += _sums(model, windows, teacher)
        done += windows.shape[0] * (windows.shape[1] - 1)
        if on_tokens is not None:
            on_tokens(done, targets)
    loss, teacher_loss, kl, agreement = (totals / targets).tolist()
    for field, value in (("loss", loss), ("teacher's loss", teacher_loss), ("KL", kl)):
        if not math.isfinite(value):
            rule = "is NaN or infinite: the model can't predict text"
            raise UserError("can't measure that model", [Problem(field, value, rule, "check its weights")])
    size = None if text.widths is None else int(text.widths[text.lead : text.lead + targets].sum())
    return Perplexity(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=None if size is None else loss * targets / math.log(2) / max(1, size),
        tokens=targets,
        bytes=size,
        seq_len=seq_len,
        text=text.name,
        teacher_loss=None if teacher is None else teacher_loss,
        kl=None if teacher is None else kl,
        agreement=None if teacher is None else agreement,
    )


def trained_length(folder: Path) -> int:
    """Return the sequence length that `nas train` recorded; the default for another model.

    Raises:
        UserError: the record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return SEQ_LEN
    try:
        settings = read_object(path).get("settings")
        length = settings.get("seq_len") if isinstance(settings, dict) else None
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValueError("has no settings.seq_len of at least 1")
        return length
    except (OSError, ValueError) as error:
        problem = Problem(str(path), None, f"is damaged: {error}", "remove it, or give --seq-len")
        raise UserError("the model's training record can't be read", [problem]) from error


def _batch_logits(model: Any) -> int:
    return BATCH_LOGITS.get(device_of(model).type, BATCH_LOGITS["cpu"])


def _sums(model: Any, rows: Tensor, teacher: Any | None) -> Tensor:
    """Return sums over rows (b, t + 1): nats of the model, nats of the teacher, KL, equal greedy tokens."""
    targets = rows[:, 1:].flatten()
    logits = _logits(model, rows)
    theirs = None if teacher is None else _logits(teacher, rows)
    if theirs is not None and theirs.shape != logits.shape:
        rule = f"predicts {theirs.shape[1]:,} tokens, the model {logits.shape[1]:,}"
        raise UserError("the models can't be compared", [Problem("teacher", None, rule)])
    total = torch.zeros(4, dtype=torch.float64)
    size = max(1, CHUNK_LOGITS // logits.shape[1])
    for start in range(0, len(logits), size):
        part = slice(start, start + size)
        student, wanted = logits[part].float(), targets[part].to(logits.device)
        total[0] += float(F.cross_entropy(student, wanted, reduction="sum"))
        if theirs is None:
            continue
        reference = theirs[part].to(logits.device).float()
        total[1] += float(F.cross_entropy(reference, wanted, reduction="sum"))
        log_p, log_q = reference.log_softmax(-1), student.log_softmax(-1)
        total[2] += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
        total[3] += int((student.argmax(-1) == reference.argmax(-1)).sum())
    return total


def _logits(model: Any, rows: Tensor) -> Tensor:
    """Return the logits (b * t, vocabulary) of all tokens of the rows but the last."""
    ids = rows[:, :-1].to(device_of(model))
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.flatten(0, 1)
