"""Descent: AdamW along a schedule, a batch at a time, in as many pieces as memory asks for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from studies.training.compilation import compiled_blocks, keep_code, pays
from studies.training.cuda_graph import Recording
from studies.training.devices import autocast
from studies.training.errors import TrainingFailed
from studies.training.memory import fitting
from studies.training.optimizer import make_optimizer
from studies.training.profiling import mark
from studies.training.rng_state import random_state, set_random_state
from studies.training.settings import TrainSettings, schedule
from surgery.model import HybridLM
from surgery.ops.cross_entropy import IGNORED

# steps on CUDA before one is recorded: the first compiles kernels, the second finds them
UNRECORDED = 2
EXPLODED = 3.0  # times the loss of its first step: a run that gets there has failed


class Descent:
    """AdamW along its schedule, a batch at a time. Losses stay on the device until they are read.

    `sequences`: of a batch that are worked on together. None until memory runs out; then they are halved as
    often as it takes, and stay so.
    """

    def __init__(self, model: HybridLM, settings: TrainSettings, device: torch.device) -> None:
        self.model, self.settings, self.device = model, settings, device
        keep_code()  # an optimizer loads the compiler, used or not
        if pays(settings.compile, device, settings.tokens):
            model.run_block = compiled_blocks(settings.compile)
        self.optimizer = make_optimizer(model, settings, device)
        self.rates = [torch.zeros((), device=device) for _ in self.optimizer.param_groups]
        self.first_loss: Tensor | float | None = None  # of the run's first step, nats/token
        self.sequences: int | None = None
        self.recording: Recording | None = None
        self.unrecorded = 0  # steps so far; none is recorded before UNRECORDED, or after a recording failed
        mark("build")

    def step(self, number: int, inputs: Tensor, targets: Tensor) -> None:
        """One optimizer step on (b, t) tokens; a target of -100 does not count. Steps are numbered from 1.

        Raises:
            TrainingFailed: not even a single sequence fits into memory.
        """
        self.lr = self.settings.lr * schedule(number, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            lr = self.lr * group["scale"]
            group["lr"] = rate.fill_(lr) if self.device.type == "cuda" else lr  # recorded steps read `rate`
        if self.device.type == "cuda" and self.unrecorded == UNRECORDED:
            self._record(inputs, targets)
        if self.recording is not None and self.recording.fits(inputs, targets):
            self.loss, self.auxiliary, self.norm = self.recording(inputs, targets)
            mark("replay")
            return
        self.unrecorded += 1
        self.loss, self.auxiliary = self._halving(inputs, targets)
        if self.first_loss is None:
            self.first_loss = self.loss.clone()
        self.norm = self._descend()
        mark("optimizer")

    def restore(self, state: Mapping[str, Any], first_loss: float | None) -> None:
        """Continues with an optimizer's state, of whatever device, and the loss that the run started from."""
        self.first_loss = first_loss
        self.optimizer.load_state_dict(dict(state))
        for group in self.optimizer.param_groups:
            group["capturable"] = self.device.type == "cuda"

    def _descend(self) -> Tensor:
        """Follows the gradients, which are used up: their norm before they were clipped."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _record(self, inputs: Tensor, targets: Tensor) -> None:
        """Records a whole step, or says why it can't be and leaves all as it was."""
        torch.cuda.empty_cache()  # what is kept for other steps is no use to a recording
        try:
            self.recording = Recording(self._whole, inputs, targets)
        except RuntimeError as error:
            reason = str(_first_of(error)).partition("\n")[0]
            warnings.warn(f"training steps are launched kernel by kernel: {reason}", stacklevel=2)
            self.optimizer.zero_grad(set_to_none=True)
        self.unrecorded += 1

    def _whole(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A step: (loss, auxiliary terms, gradient norm)."""
        return *self._accumulate(inputs, targets, self.sequences or len(inputs)), self._descend()

    def forget(self) -> bool:
        """Gives the memory of a recording back, if there is one; steps go on kernel by kernel."""
        if self.recording is None:
            return False
        self.recording = None
        torch.cuda.empty_cache()
        return True

    def _halving(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Works on fewer sequences at a time until they fit into memory."""
        before = random_state(self.device)
        whole = min(self.sequences or len(inputs), len(inputs))

        def start_anew() -> bool:
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            set_random_state(before, self.device)
            return False

        found, size = fitting(whole, lambda size: self._accumulate(inputs, targets, size), start_anew)
        if size < whole:
            self.sequences = size
        return found

    def _accumulate(self, inputs: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The mean over all tokens that count, whatever the pieces, which are of `size` sequences; auxiliary
        terms, means over tokens, weigh by sequences. (Only the floor of `kl: free_bits` is of a piece's mean,
        not the batch's.)
        """
        counted = (targets != IGNORED).sum()
        losses, terms = [], []
        for tokens, wanted in zip(inputs.split(size), targets.split(size), strict=True):
            with autocast(self.device, self.settings.cpu_precision):
                loss, auxiliary = self.model.loss(tokens, wanted, reduction="sum")
            loss, auxiliary = loss / counted, auxiliary * (len(tokens) / len(inputs))
            mark("forward")
            (loss + auxiliary).backward()
            mark("backward")
            losses.append(loss.detach())
            terms.append(auxiliary.detach())
        return torch.stack(losses).sum(), torch.stack(terms).sum()

    def check(self, number: int) -> tuple[float, float]:
        """(loss, gradient norm) of the last step.

        Raises:
            TrainingFailed: one of them is not finite, or the loss exploded.
        """
        loss, norm = self.loss.item(), self.norm.item()
        self.check_alive(loss, norm, number)
        return loss, norm

    def check_alive(self, loss: float, norm: float, number: int) -> None:
        """Raises:
        TrainingFailed: loss or norm is not finite, or the loss is EXPLODED times that of the first step.
        """
        if not math.isfinite(loss):
            raise TrainingFailed(f"the loss became {loss} at step {number}")
        if not math.isfinite(norm):
            raise TrainingFailed(f"the gradient norm became {norm} at step {number}")
        first = self.first()
        if first is not None and loss > EXPLODED * first:
            raise TrainingFailed(
                f"the loss exploded to {loss:.1f} nats/token at step {number}, from {first:.1f} at the first"
            )

    def first(self) -> float | None:
        """The loss of the run's first step, nats/token; None before it."""
        if isinstance(self.first_loss, Tensor):
            self.first_loss = self.first_loss.item()
        return self.first_loss


def _first_of(error: BaseException) -> BaseException:
    """The error that others were raised because of: the end of a broken recording is one itself."""
    while error.__context__ is not None:
        error = error.__context__
    return error
