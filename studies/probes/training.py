"""Training of a probe: a new model, batches generated on the fly, accuracy on unseen sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from search_spaces.probes.base import Probe
from search_spaces.probes.recall import Recall
from search_spaces.probes.state import State
from studies.files.curve import Stopwatch, log_steps
from studies.probes import recall, state
from studies.probes.task import UNSCORED, Tokens
from studies.training.devices import autocast, to_device
from studies.training.errors import TrainingFailed
from studies.training.lanes import turn
from studies.training.loop import Interrupted, Progress
from studies.training.settings import TrainSettings
from studies.training.step import TrainStep
from surgery.architecture import Architecture
from surgery.model import HybridLM

TEST_SEQUENCES = 512  # recall with 8 pairs: 4,096 answers, a standard error below 0.008


def train_probe(
    architecture: Architecture,
    settings: Probe,
    seed: int,
    device: torch.device,
    should_stop: Callable[[], bool] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> float:
    """Train a new model for `settings.steps` batches. Returns its accuracy on unseen sequences, 0 to 1.

    Args:
        seed: sets the weights, the HDPL noise and all sequences.

    Raises:
        TrainingFailed: the loss is not finite or exploded.
        Interrupted: `should_stop` returned True between two steps.
    """
    recipe = recipe_of(settings)
    with turn():
        torch.manual_seed(seed)
        model = fresh_model(architecture, settings).to(device).train()
        train_step = TrainStep(model, recipe, device)
    generator = np.random.default_rng((seed, 0))
    watch, logged = Stopwatch(), log_steps(recipe.steps)
    for step in range(1, recipe.steps + 1):
        if should_stop is not None and should_stop():
            raise Interrupted
        inputs, targets = _tensors(settings, settings.batch, generator, device)
        train_step.step(step, inputs, targets)
        if step in logged:
            try:
                loss, _ = train_step.check(step)
            except TrainingFailed as error:
                raise TrainingFailed(f"in the {settings.name} probe {error}") from None
            if on_step is not None:
                tokens = step * recipe.batch_tokens
                on_step(Progress(step, recipe.steps, tokens, loss, tokens / max(watch.seconds, 1e-9)))
    with turn():
        return accuracy(model, settings, np.random.default_rng((seed, 1)), device)


@torch.no_grad()
def accuracy(model: HybridLM, settings: Probe, generator: np.random.Generator, device: torch.device) -> float:
    """Return the share of right answers in TEST_SEQUENCES sequences; the answer is the most likely token."""
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


def fresh_model(architecture: Architecture, settings: Probe) -> HybridLM:
    """Return the architecture's layers with random weights and the probe's own embedding and head.

    The vocabulary is that of the task; embedding and head are untied, and the embeddings have unit variance.
    Smaller embeddings are dominated by the output of the first layers, and whether a model then learns to
    look up a token in a short training depends on its seed more than on its layers.
    """
    model = HybridLM(architecture.with_backbone(vocab_size=settings.vocab_size, tie_embeddings=False))
    torch.nn.init.normal_(model.embed.weight)
    return model


def recipe_of(settings: Probe) -> TrainSettings:
    """Return the probe's training settings."""
    return TrainSettings(
        tokens=settings.tokens,
        seq_len=settings.seq_len,
        batch_tokens=settings.batch * settings.seq_len,
        lr=settings.lr,
        warmup=0.1,
    )


def sequences(settings: Probe, count: int, generator: np.random.Generator) -> tuple[Tokens, Tokens]:
    """Return (inputs, targets) of the probe's task, both (count, seq_len); other targets are UNSCORED."""
    match settings:
        case Recall():
            return recall.sequences(settings, count, generator)
        case State():
            return state.sequences(settings, count, generator)
    raise TypeError(f"no task for {settings}")


def _tensors(
    settings: Probe, count: int, generator: np.random.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = sequences(settings, count, generator)
    return to_device(inputs, device), to_device(targets, device)
