"""The held-out text: sequences that replacements are scored on, and others that designs are measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from search_spaces.library import LibrarySettings
from studies.data import TokenData
from studies.evaluation.retrieval import TASKS, draw_prompts
from studies.evaluation.text import Tokens
from studies.healing.settings import HealSettings
from studies.training.batches import check_data
from studies.training.validation import held_out_sequences
from surgery.apply.source import SourceModel
from surgery.config.problems import Problem, UserError
from surgery.hf.tokenizer import load_tokenizer


def check_text(source: SourceModel, data: TokenData, settings: LibrarySettings) -> None:
    """Check that a model, its text and the settings of a library fit each other.

    Raises:
        UserError: sequences exceed the model's context, there is too little text or it has other tokens, or
            prompts don't fit into a sequence.
    """
    longest = source.backbone.max_position_embeddings
    if settings.seq_len > longest:
        rule = f"exceeds the model's context of {longest} tokens"
        problem = Problem("library.seq_len", settings.seq_len, rule, "give fewer")
        raise UserError("model and library don't fit", [problem])
    fit = HealSettings(tokens=0, seq_len=settings.seq_len, batch_tokens=settings.seq_len)
    check_data(data, fit.training(), source.backbone.vocab_size)
    scored_sequences(data, settings)
    if settings.prompts:
        tokenizer = load_tokenizer(source.folder)
        for task in TASKS:
            draw_prompts(task, filler(data), tokenizer, length=settings.seq_len, number=1, seed=0)


def filler(data: TokenData) -> Tokens:
    """Return the held-out text, in which prompts hide their facts."""
    return Tokens("the held-out text", np.asarray(data.tokens("val")))


def scored_sequences(data: TokenData, settings: LibrarySettings) -> int:
    """Return the number of sequences of a score: the first ones of the held-out text.

    Raises:
        UserError: there are fewer than two, which have no standard error.
    """
    most = max(settings.score_tokens, 2 * settings.seq_len)
    count = held_out_sequences(data, settings.seq_len, most)
    if count < 2:
        rule = f"must hold two sequences of {settings.seq_len} tokens for a standard error"
        problem = Problem("val tokens", len(data.tokens("val")), rule, "use more text or a smaller seq_len")
        raise UserError("too little held-out text", [problem])
    return count


def scores_folder(library: Path, data: TokenData, settings: LibrarySettings) -> Path:
    """Return the folder of scores on so many sequences, inside of a library."""
    return library / "scores" / f"{scored_sequences(data, settings)}x{settings.seq_len}"


def tokens_of_scores(settings: LibrarySettings) -> int:
    """Return the tokens that each replacement is scored on: text, and prompts of every retrieval task."""
    return settings.score_tokens + len(TASKS) * settings.score_prompts * settings.seq_len


def answers_folder(library: Path, settings: LibrarySettings) -> Path:
    """Return the folder of scores on the answers of so many prompts of each task, inside of a library."""
    return library / "scores" / f"answers {settings.score_prompts}x{settings.seq_len}"


def samples(data: TokenData, settings: LibrarySettings) -> int:
    """Return the number of stretches of held-out text that designs can be measured on, at least one."""
    free = data.num_sequences("val", settings.seq_len) - scored_sequences(data, settings)
    return max(1, free // _evaluated(data, settings))


def stretch(data: TokenData, settings: LibrarySettings, sample: int) -> range:
    """Return the sequences of one stretch of held-out text.

    They are behind those that replacements are scored on, so that choosing by scores does not flatter a
    design. A text that is too short for that gives its last sequences.

    Raises:
        UserError: there is no such stretch.
    """
    known = samples(data, settings)
    if not 0 <= sample < known:
        rule = f"the held-out text has {known} stretches of {settings.eval_tokens} tokens, counted from 0"
        problem = Problem("sample", sample, rule, "use more held-out text, or a smaller eval_tokens")
        raise UserError("too little held-out text", [problem])
    total, size = data.num_sequences("val", settings.seq_len), _evaluated(data, settings)
    start = min(scored_sequences(data, settings) + sample * size, total - size)
    return range(start, start + size)


def _evaluated(data: TokenData, settings: LibrarySettings) -> int:
    """Return the sequences of a stretch."""
    return held_out_sequences(data, settings.seq_len, max(settings.eval_tokens, 2 * settings.seq_len))
