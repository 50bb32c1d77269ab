"""Retrieval by generating: facts are hidden in natural text, and the model has to continue a question.

The pass-key task is that of Mohtashami and Jaggi (2305.16300), with natural text in place of the repeated
sentences. The key-value task is in-context recall: one of several values, by its key.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from studies.evaluation.decoding import device_of, greedy
from studies.evaluation.text import Tokens, beginning
from surgery.config.problems import Problem, UserError

DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the facts in the filler; prompts take them in turn
PAIRS = 4  # of the key-value task
BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}  # of prompts that are decoded together
_NAMES = (
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket",
    "kitchen", "ladder", "market", "needle", "orange", "pencil", "quarry", "river", "saddle", "tunnel",
    "umbrella", "valley", "window", "yellow",
)  # fmt: skip
_INTRODUCTION = "{what} hidden in the text below. Find and memorize it.\n\n"


class Hidden(NamedTuple):
    """A prompt's parts: text before the filler, facts in it, the question after it, and the answer."""

    introduction: str
    facts: str
    question: str
    answer: str


def pass_key(draw: random.Random) -> Hidden:
    """Draw a pass key of five digits."""
    key = str(draw.randrange(10_000, 100_000))
    return Hidden(
        _INTRODUCTION.format(what="There is a pass key"),
        f"\nThe pass key is {key}. Remember it. {key} is the pass key.\n",
        "\n\nWhat is the pass key? The pass key is",
        key,
    )


def key_value(draw: random.Random) -> Hidden:
    """Draw words with numbers of four digits, one of which is asked for."""
    numbers = {name: str(draw.randrange(1000, 10_000)) for name in draw.sample(_NAMES, PAIRS)}
    name = draw.choice(list(numbers))
    return Hidden(
        _INTRODUCTION.format(what="There is a list of words with their numbers"),
        "\n" + "".join(f"The number of {word} is {number}.\n" for word, number in numbers.items()),
        f"\n\nWhat is the number of {name}? The number of {name} is",
        numbers[name],
    )


TASKS: dict[str, Callable[[random.Random], Hidden]] = {"pass_key": pass_key, "key_value": key_value}


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, the depth of its facts (0: at the beginning), and the answer."""

    ids: tuple[int, ...]
    depth: float
    answer: str


@dataclass(frozen=True)
class Retrieval:
    """Exact matches of a task, in prompts of `length` tokens, new tokens included.

    Attributes:
        by_depth: accuracy by the depth of the facts.
        teacher_accuracy: of the teacher on the same prompts; None, as the next, without a teacher.
        relative: accuracy as a share of the teacher's; None if that is 0.
    """

    task: str
    length: int
    prompts: int
    accuracy: float
    by_depth: dict[str, float]
    teacher_accuracy: float | None = None
    relative: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def draw_prompts(
    task: str, text: Tokens, tokenizer: Any, *, length: int, number: int, seed: int
) -> tuple[list[Prompt], int]:
    """Draw prompts of equal length.

    The same seed and text give the same prompts for every model with this tokenizer.

    Args:
        task: a key of TASKS.
        text: the filler; its end-of-text tokens are left out.
        length: tokens of a prompt and its answer together.

    Returns:
        The prompts, and the tokens to generate for the answer.

    Raises:
        UserError: the length is too short for the question, or the text for the filler.
    """
    draw = random.Random(f"{seed} {task} {length}")
    filler = text.ids[text.ids != tokenizer.eos_token_id]
    bos = beginning(tokenizer)
    prompts = []
    drawn = [TASKS[task](draw) for _ in range(number)]
    new_tokens = 2 + max(len(answer_ids(tokenizer, item.answer)) for item in drawn)
    for index, item in enumerate(drawn):
        start, facts, question = (_ids(tokenizer, part) for part in item[:3])
        if bos is not None:
            start = [bos, *start]
        size = length - new_tokens - len(start) - len(facts) - len(question)
        _check_sizes(length, size, len(filler), text.name)
        first = draw.randrange(len(filler) - size + 1)
        words = filler[first : first + size].tolist()
        depth = DEPTHS[index % len(DEPTHS)]
        cut = round(depth * size)
        ids = (*start, *words[:cut], *facts, *words[cut:], *question)
        prompts.append(Prompt(ids, depth, item.answer))
    return prompts, new_tokens


def retrieve(
    model: Any,
    prompts: Sequence[Prompt],
    new_tokens: int,
    tokenizer: Any,
    *,
    on_prompts: Callable[[int], None] | None = None,
) -> list[bool]:
    """Return, for each prompt, whether the first number that the model generates is the answer.

    Args:
        model: a causal LM of transformers in evaluation mode.
        prompts: of equal length.
        on_prompts: called after every batch with the number of prompts done.
    """
    right: list[bool] = []
    tokens = BATCH_TOKENS.get(device_of(model).type, BATCH_TOKENS["cpu"])
    size = max(1, tokens // len(prompts[0].ids))
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        for prompt, ids in zip(batch, greedy(model, [item.ids for item in batch], new_tokens), strict=True):
            answer = re.match(r"\s*(\d+)", tokenizer.decode(ids))
            right.append(answer is not None and answer[1] == prompt.answer)
        if on_prompts is not None:
            on_prompts(len(right))
    return right


def summarise(
    task: str, length: int, prompts: Sequence[Prompt], right: Sequence[bool], theirs: Sequence[bool] | None
) -> Retrieval:
    """Return the accuracies of a model, and of its teacher if `theirs` is given."""
    accuracy = float(np.mean(right))
    teacher = None if theirs is None else float(np.mean(theirs))
    by_depth: dict[float, list[bool]] = {}
    for prompt, ok in zip(prompts, right, strict=True):
        by_depth.setdefault(prompt.depth, []).append(ok)
    depths = {f"{depth:g}": float(np.mean(matches)) for depth, matches in sorted(by_depth.items())}
    relative = accuracy / teacher if teacher else None
    return Retrieval(task, length, len(prompts), accuracy, depths, teacher, relative)


def answer_ids(tokenizer: Any, answer: str) -> list[int]:
    """Return the token ids of an answer as it continues the prompt's question."""
    return _ids(tokenizer, f" {answer}")


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_sizes(length: int, size: int, available: int, name: str) -> None:
    if size < 1:
        rule = f"is too short for retrieval: the question alone takes {length - size} tokens"
        raise UserError("can't measure retrieval", [Problem("length", length, rule, "give a longer one")])
    if available < size:
        rule = f"has {available} tokens, {size} are needed between the question and the facts"
        raise UserError("too little text", [Problem("data", name, rule, "give more text")])
