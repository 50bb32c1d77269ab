"""Streamed text generation from a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TextStreamer

from studies.evaluation.model_folder import Checkpoint, check_tokens
from surgery.config.problems import Problem, Problems, UserError


@dataclass(frozen=True)
class Generated:
    """Amounts of generated text, and the seconds for the prompt and the new tokens together."""

    prompt_tokens: int
    new_tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second."""
        return self.new_tokens / max(self.seconds, 1e-9)


class _Streamer(TextStreamer):
    """Streamer that passes on whole words as soon as they are final."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Write the text; called by transformers."""
        self.write(text)


class _FiniteLogits(LogitsProcessor):
    """Check that logits are finite, since sampling from others is meaningless."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if bool(torch.isnan(scores).any() | torch.isposinf(scores).any()):
            rule = "are NaN or infinite: the model can't predict text"
            raise UserError("can't generate", [Problem("logits", None, rule, "check its weights")])
        return scores


def generate(
    checkpoint: Checkpoint,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    use_cache: bool = True,
    write: Callable[[str], None] = lambda text: None,
) -> Generated:
    """Generate text that continues a prompt, and stream both through `write`.

    Args:
        temperature: 0 always takes the most likely token.
        top_k: sample among so many most likely tokens; 0: among all.

    Raises:
        UserError: settings out of range, or prompt and new tokens exceed the model's context.
    """
    tokenizer = checkpoint.tokenizer
    problems = Problems()
    if temperature < 0:
        problems.add("temperature", temperature, "must be at least 0")
    if top_k < 0:
        problems.add("top_k", top_k, "must be at least 0")
    problems.raise_if_any("can't generate")
    ids = list(tokenizer(prompt)["input_ids"])
    if not ids:
        first = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None)
        if first is None:
            raise UserError(
                "can't generate", [Problem("text", prompt, "is empty", "give a prompt to continue")]
            )
        ids = [first]
    check_tokens(checkpoint, ids)
    if len(ids) + max_new_tokens > checkpoint.longest:
        rule = f"{len(ids)} of it and {max_new_tokens} new ones exceed the context of {checkpoint.longest}"
        raise UserError("can't generate", [Problem("tokens", len(ids), rule, "fewer --max-new-tokens")])
    inputs = torch.tensor([ids], device=checkpoint.device)
    # overrides defaults of a checkpoint that are incompatible with streaming a single text
    single: dict[str, Any] = {"num_beams": 1, "num_return_sequences": 1}
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": 1.0}
    torch.manual_seed(seed)
    started = time.perf_counter()
    output = checkpoint.model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=max_new_tokens,
        use_cache=use_cache,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        streamer=_Streamer(tokenizer, write),
        logits_processor=LogitsProcessorList([_FiniteLogits()]),
        tokenizer=tokenizer,  # for the stop strings of the checkpoint, if any
        **single,
        **sampling,
    )
    seconds = time.perf_counter() - started
    return Generated(len(ids), output.shape[1] - len(ids), seconds)
