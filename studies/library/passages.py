"""Sequences that models are compared on, and which predictions count: text, or answers of prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from search_spaces.library import LibrarySettings
from studies.data import TokenData
from studies.evaluation.retrieval import TASKS, Prompt, answer_ids, draw_prompts
from studies.healing.teacher import Teacher
from studies.library.text import filler
from studies.training.devices import to_device

SCORED = -1  # seed of the prompts of scores; those of designs are numbered from 0


class Passages(NamedTuple):
    """Sequences of equal length.

    Attributes:
        tokens: token ids.
        counted: whether the prediction of the next token counts, for every token but the last.
    """

    tokens: Int[Tensor, "n t"]
    counted: Bool[Tensor, "n s"]

    @property
    def targets(self) -> Int[Tensor, " m"]:
        """The tokens whose predictions count, sequence after sequence."""
        return self.tokens[:, 1:][self.counted]

    @property
    def sizes(self) -> list[int]:
        """Number of predictions that count in each sequence."""
        sizes: list[int] = self.counted.sum(1).tolist()
        return sizes


def means(values: Float[Tensor, " m"], sizes: Sequence[int]) -> list[float]:
    """Return the mean of the values of each sequence, given how many each has."""
    return [float(part.mean()) for part in values.double().split(list(sizes))]


def text_passages(
    data: TokenData, rows: Iterable[int], settings: LibrarySettings, device: torch.device
) -> Passages:
    """Return held-out sequences, every prediction of which counts."""
    tokens = to_device(data.batch(list(rows), settings.seq_len, "val"), device)
    return Passages(tokens, torch.ones_like(tokens[:, 1:], dtype=torch.bool))


class Asked(NamedTuple):
    """Prompts of one retrieval task, of equal length, and how many tokens to generate for the answer."""

    prompts: list[Prompt]
    new_tokens: int


def asked(
    teacher: Teacher, data: TokenData, settings: LibrarySettings, number: int, seed: int
) -> list[Asked]:
    """Draw prompts of every retrieval task.

    Args:
        teacher: whose tokenizer is the text's.
        data: the filler.
        settings: with the length of a prompt and its answer.
        number: prompts of each task.
        seed: of the prompts.
    """
    text = filler(data)
    return [
        Asked(*draw_prompts(task, text, teacher.tokenizer, length=settings.seq_len, number=number, seed=seed))
        for task in TASKS
    ]


def answer_passages(teacher: Teacher, drawn: Iterable[Asked], settings: LibrarySettings) -> Passages:
    """Return retrieval prompts with their answers, whose tokens alone count, on the teacher's device."""
    tokenizer = teacher.tokenizer
    tokens, counted = [], []
    for prompt in (prompt for task in drawn for prompt in task.prompts):
        answer = answer_ids(tokenizer, prompt.answer)
        start, end = len(prompt.ids), len(prompt.ids) + len(answer)
        rest = [tokenizer.eos_token_id] * (settings.seq_len - end)  # behind the answer, seen by none
        tokens.append([*prompt.ids, *answer, *rest])
        counted.append([start <= index < end for index in range(1, settings.seq_len)])
    return Passages(torch.tensor(tokens, device=teacher.device), torch.tensor(counted, device=teacher.device))
