"""All measurements of a trained model itself: losses by length, distance from a teacher, retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from studies.evaluation.model_folder import Checkpoint, check_tokens
from studies.evaluation.perplexity import Perplexity, measure, trained_length
from studies.evaluation.retrieval import TASKS, Retrieval, draw_prompts, retrieve, summarise
from studies.evaluation.text import Text, Tokens, tokenize
from surgery.config.problems import Problems
from surgery.hf.configuration import NasConfig
from surgery.hf.modeling import NasForCausalLM
from surgery.model import HybridLM

Progress = Callable[[str, int, int], None]  # called with (stage, done, total)


@dataclass(frozen=True)
class ModelEvaluation:
    """Losses at each length, and the retrieval tasks at each length."""

    losses: tuple[Perplexity, ...]
    retrieval: tuple[Retrieval, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def evaluate_model(
    model: Any,
    text: Tokens | torch.Tensor | Sequence[int],
    *,
    teacher: Any | None = None,
    tokenizer: Any | None = None,
    lengths: Sequence[int] = (512,),
    max_tokens: int | None = 65_536,
    prompts: int = 0,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> ModelEvaluation:
    """Evaluate a model in memory on held-out text, and by generating.

    Results depend on the arguments only: prompts are drawn from the seed, and decoded greedily with cache.

    Args:
        model: a `HybridLM`, or a causal LM of transformers. Its training mode is restored.
        text: held-out tokens, documents separated by their end-of-text token.
        teacher: a model like `model`, with the same vocabulary, to compare with.
        tokenizer: that of transformers; needed for prompts.
        lengths: tokens per window of the losses, and tokens of the prompts.
        max_tokens: most predicted tokens per length; None for all of the text.
        prompts: prompts per retrieval task and length; 0: none.
        seed: of the prompts.

    Raises:
        UserError: too little text, losses that are not finite, or a teacher with another vocabulary.
    """
    tokens = text if isinstance(text, Tokens) else Tokens("given tokens", torch.as_tensor(text).cpu().numpy())
    assert tokenizer is not None or not prompts, "prompts need a tokenizer"
    with as_causal(model) as student, as_causal(teacher) as reference:
        losses = tuple(
            measure(
                student, tokens, seq_len=length, max_tokens=max_tokens, teacher=reference,
                on_tokens=lambda done, total, length=length: progress(  # type: ignore[misc]
                    f"loss at {length}, tokens", done, total
                ),
            )
            for length in lengths
        )  # fmt: skip
        retrieval = tuple(
            _retrieval(task, student, reference, tokens, tokenizer, length, prompts, seed, progress)
            for length in lengths
            for task in TASKS
            if prompts
        )
    return ModelEvaluation(losses, retrieval)


def _retrieval(
    task: str, model: Any, teacher: Any | None, text: Tokens, tokenizer: Any, length: int, number: int,
    seed: int, progress: Progress,
) -> Retrieval:  # fmt: skip
    drawn, new_tokens = draw_prompts(task, text, tokenizer, length=length, number=number, seed=seed)
    stage = f"{task} at {length}, prompts"

    def run(which: Any, before: int) -> list[bool]:
        total = number if teacher is None else 2 * number
        return retrieve(
            which, drawn, new_tokens, tokenizer, on_prompts=lambda done: progress(stage, before + done, total)
        )

    right = run(model, 0)
    return summarise(task, length, drawn, right, None if teacher is None else run(teacher, number))


@contextmanager
def as_causal(model: Any) -> Iterator[Any]:
    """Yield a model as a causal LM of transformers, in evaluation mode; restore its mode afterwards."""
    if model is None:
        yield None
        return
    was_training = model.training
    causal = model
    if isinstance(model, HybridLM):
        causal = NasForCausalLM.wrap(model, NasConfig(model.architecture.to_dict()))
    causal.eval()
    try:
        yield causal
    finally:
        model.train(was_training)


def evaluate_folder(
    checkpoint: Checkpoint,
    text: Text,
    *,
    teacher: Checkpoint | None = None,
    lengths: Sequence[int] | None = None,
    max_tokens: int | None = None,
    prompts: int = 0,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> ModelEvaluation:
    """Evaluate a loaded model folder, as `evaluate_model` does, on text by its own tokenizer.

    Args:
        lengths: by default the one that `nas train` recorded in the folder, else 512 tokens.

    Raises:
        UserError: as `evaluate_model`; and lengths that exceed a model's context, tokens without a row, or a
            teacher with another tokenizer.
    """
    problems = Problems()
    if teacher is not None and teacher.tokenizer.get_vocab() != checkpoint.tokenizer.get_vocab():
        rule = "has another tokenizer, so that its predictions can't be compared"
        problems.add("against", teacher.name, rule, "without it, compare bits per byte")
    longest = min(item.longest for item in (checkpoint, teacher) if item is not None)
    if lengths is None:
        lengths = (min(trained_length(checkpoint.folder), longest),)
    for length in lengths:
        if length > longest:
            problems.add("length", length, f"exceeds the context of {longest:,} tokens", "give fewer")
    problems.raise_if_any(f"{checkpoint.name}: can't be evaluated like that")
    tokens = tokenize(checkpoint, text, None if max_tokens is None else max_tokens + max(lengths))
    used = [*np.unique(tokens.ids), *([] if tokens.bos is None else [tokens.bos])]
    check_tokens(checkpoint, used)
    return evaluate_model(
        checkpoint.model, tokens, teacher=None if teacher is None else teacher.model,
        tokenizer=checkpoint.tokenizer, lengths=lengths, max_tokens=max_tokens, prompts=prompts, seed=seed,
        progress=progress,
    )  # fmt: skip
