"""The recall probe: multi-query associative recall (MQAR; Arora et al. 2023, arXiv 2312.04927).

A sequence shows pairs of a key and its value, k1 v1 k2 v2 ..., and later asks for every key once more, in
random order among filler. Right after an asked key the model must predict the value that stood behind that
key. Keys and values are drawn anew for every sequence, so nothing can be learned by heart; the answers never
stand in the input, so striking out those already given does not help either. Perplexity hides this ability
(most tokens of a text don't need it), and mixers without it look fine until they must look something up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from search_spaces.recall import FILLER, Recall
from studies.curve import Stopwatch, log_steps
from studies.devices import autocast
from studies.training import Descent, Interrupted, Progress, TrainingFailed, TrainSettings
from surgery.architecture import Architecture
from surgery.model import HybridLM

UNSCORED = -100  # target of a position that does not count, as cross_entropy has it
TEST_SEQUENCES = 512  # with 8 pairs, 4,096 answers: a standard error below 0.008
Tokens = NDArray[np.int64]


def sequences(settings: Recall, count: int, generator: np.random.Generator) -> tuple[Tokens, Tokens]:
    """(inputs, targets), both (count, seq_len); a target is a value at each asked key, else UNSCORED."""
    pairs, half = settings.pairs, settings.alphabet // 2
    keys = FILLER + 1 + _some(count, half, pairs, generator)
    values = FILLER + 1 + half + generator.integers(0, half, (count, pairs))
    inputs = np.full((count, settings.seq_len), FILLER, dtype=np.int64)
    targets = np.full_like(inputs, UNSCORED)
    shown = 2 * pairs
    inputs[:, 0:shown:2], inputs[:, 1:shown:2] = keys, values
    places = shown + _some(count, settings.seq_len - shown, pairs, generator)
    np.put_along_axis(inputs, places, keys, axis=1)
    np.put_along_axis(targets, places, values, axis=1)
    return inputs, targets


def train_recall(
    architecture: Architecture,
    settings: Recall,
    seed: int,
    device: torch.device,
    should_stop: Callable[[], bool] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> float:
    """Accuracy on new sequences, 0 to 1, of a fresh model trained on `settings.steps` batches of others.

    `seed` sets the weights, the HDPL noise and all sequences.

    Raises:
        TrainingFailed: the loss is not finite or exploded.
        Interrupted: `should_stop` said so between two steps.
    """
    recipe = recipe_of(settings)
    torch.manual_seed(seed)
    model = fresh_model(architecture, settings).to(device).train()
    descent = Descent(model, recipe, device)
    generator = np.random.default_rng((seed, 0))
    watch, told = Stopwatch(), log_steps(recipe.steps)
    for step in range(1, recipe.steps + 1):
        if should_stop is not None and should_stop():
            raise Interrupted
        inputs, targets = _tensors(settings, settings.batch, generator, device)
        descent.step(step, inputs, targets)
        if step in told:
            try:
                loss, _ = descent.check(step)
            except TrainingFailed as error:
                raise TrainingFailed(f"in the recall probe {error}") from None
            if on_step is not None:
                tokens = step * recipe.batch_tokens
                on_step(Progress(step, recipe.steps, tokens, loss, tokens / max(watch.seconds, 1e-9)))
    return accuracy(model, settings, np.random.default_rng((seed, 1)), device)


@torch.no_grad()
def accuracy(
    model: HybridLM, settings: Recall, generator: np.random.Generator, device: torch.device
) -> float:
    """Share of right answers in TEST_SEQUENCES sequences; the likeliest of all tokens is the answer."""
    model.eval()
    right = asked = 0
    for start in range(0, TEST_SEQUENCES, settings.batch):
        count = min(settings.batch, TEST_SEQUENCES - start)
        inputs, targets = _tensors(settings, count, generator, device)
        scored = targets != UNSCORED
        with autocast(device):
            answers = model.head(model(inputs)[scored]).argmax(dim=-1)
        right += int((answers == targets[scored]).sum())
        asked += int(scored.sum())
    return right / asked


def fresh_model(architecture: Architecture, settings: Recall) -> HybridLM:
    """The architecture's layers, with random weights, between an embedding and a head of the probe's own.

    The vocabulary is the alphabet, since other tokens don't occur; it is untied, and the embeddings have unit
    variance. Smaller ones drown in what the first layers add to the stream, and whether a model then learns
    to look a token up, within a short training, hangs on its seed more than on its layers.
    """
    vocab_size = FILLER + 1 + settings.alphabet
    backbone = replace(architecture.backbone, vocab_size=vocab_size, tie_embeddings=False)
    model = HybridLM(replace(architecture, backbone=backbone))
    torch.nn.init.normal_(model.embed.weight)
    return model


def recipe_of(settings: Recall) -> TrainSettings:
    """The probe's budget as the trainer takes it."""
    return TrainSettings(
        tokens=settings.tokens,
        seq_len=settings.seq_len,
        batch_tokens=settings.batch * settings.seq_len,
        lr=settings.lr,
        warmup=0.1,
    )


def _some(count: int, choices: int, size: int, generator: np.random.Generator) -> Tokens:
    """(count, size): in each row, different numbers below `choices`, in random order."""
    return generator.random((count, choices)).argsort(axis=1)[:, :size]


def _tensors(
    settings: Recall, count: int, generator: np.random.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = sequences(settings, count, generator)
    return torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
