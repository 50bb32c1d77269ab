"""One optimizer step on one batch, split into micro-batches when memory runs out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from studies.training.compilation import compiled_blocks, keep_code, pays
from studies.training.cuda_graph import CapturedStep
from studies.training.devices import autocast
from studies.training.errors import TrainingFailed
from studies.training.lanes import turn
from studies.training.memory import retry_smaller
from studies.training.objective import CrossEntropy, Objective, Scalar, Tokens
from studies.training.optimizer import make_optimizer
from studies.training.profiling import mark
from studies.training.rng_state import random_state, set_random_state
from studies.training.schedule import schedule
from studies.training.settings import TrainSettings
from surgery.model import HybridLM
from surgery.ops.cross_entropy import IGNORED

# steps on CUDA before one is captured: the first compiles kernels, the second reuses them
UNCAPTURED = 2
EXPLODED = 3.0  # a run fails when its loss exceeds that of its first step by this factor


class TrainStep:
    """One optimizer step: forward, backward, clip, update. Losses stay on the device until `.item()`.

    Attributes:
        micro_batch: sequences per forward and backward pass. None: the whole batch. Halved on every
            out-of-memory error, and kept for later steps.
        captured: the step as a CUDA graph, once it is captured.
        uncaptured: steps so far that ran kernel by kernel; a capture is attempted once, after UNCAPTURED.
        terms: losses of the last step by name, on the device.
    """

    def __init__(
        self,
        model: HybridLM,
        settings: TrainSettings,
        device: torch.device,
        objective: Objective | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        """Prepare to train `model`.

        Args:
            model: the model, on `device`.
            settings: optimizer settings, schedule, precision.
            device: the model's device.
            objective: the loss to minimise; None: cross-entropy with the targets.
            scales: see `make_optimizer`.
        """
        self.model, self.settings, self.device = model, settings, device
        self.objective = objective or CrossEntropy()
        keep_code()  # an optimizer loads the compiler, even if nothing is compiled
        if pays(settings.compile, device, settings.tokens):
            model.run_block = compiled_blocks(settings.compile)
        self.optimizer = make_optimizer(model, settings, device, scales)
        self.rates = [torch.zeros((), device=device) for _ in self.optimizer.param_groups]
        self.first_loss: Tensor | float | None = None  # of the run's first step, nats/token
        self.terms: dict[str, Tensor] = {}
        self.micro_batch: int | None = None
        self.captured: CapturedStep | None = None
        self.uncaptured = 0
        mark("build")

    def step(self, number: int, inputs: Tokens, targets: Tokens) -> None:
        """Run one optimizer step.

        Args:
            number: 1-based number of the step.
            inputs: token ids.
            targets: token ids; a target of -100 does not count.

        Raises:
            TrainingFailed: a single sequence does not fit into memory.
        """
        self.lr = self.settings.lr * schedule(number, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            lr = self.lr * group["scale"]
            group["lr"] = rate.fill_(lr) if self.device.type == "cuda" else lr  # captured steps read `rate`
        if self.device.type == "cuda" and self.uncaptured == UNCAPTURED:
            with turn():
                self._capture(inputs, targets)
        if self.captured is not None and self.captured.fits(inputs, targets):
            *values, self.norm = self.captured(inputs, targets)
            self.terms = dict(zip(self.terms, values, strict=True))
            mark("replay")
            return
        with turn():
            self.uncaptured += 1
            self.terms = self._accumulate_or_shrink(inputs, targets)
            if self.first_loss is None:
                self.first_loss = self.loss.clone()
            self.norm = self._optimizer_step()
        mark("optimizer")

    @property
    def loss(self) -> Tensor:
        """The last step's loss: in nats/token, if the objective is."""
        return self.terms["loss"]

    @property
    def auxiliary(self) -> Tensor:
        """The last step's auxiliary losses, weighted as they are minimised."""
        return self.terms["auxiliary"]

    def restore(self, state: Mapping[str, Any], first_loss: float | None) -> None:
        """Load an optimizer state (saved on any device) and the loss of the run's first step."""
        self.first_loss = first_loss
        self.optimizer.load_state_dict(dict(state))
        for group in self.optimizer.param_groups:
            if "capturable" in group:  # Muon always is
                group["capturable"] = self.device.type == "cuda"

    def _optimizer_step(self) -> Scalar:
        """Clip gradients, step the optimizer and drop the gradients. Returns the norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _capture(self, inputs: Tokens, targets: Tokens) -> None:
        """Capture a whole step as a CUDA graph; on failure warn with the reason and change nothing."""
        torch.cuda.empty_cache()  # a capture cannot use memory that the allocator caches for other steps
        try:
            self.captured = CapturedStep(self._full_step, inputs, targets)
        except RuntimeError as error:
            reason = str(_root_cause(error)).partition("\n")[0]
            warnings.warn(f"training steps are launched kernel by kernel: {reason}", stacklevel=2)
            self.optimizer.zero_grad(set_to_none=True)
        self.uncaptured += 1

    def _full_step(self, inputs: Tokens, targets: Tokens) -> tuple[Scalar, ...]:
        """Run a step without retries. Returns (terms in their order, gradient norm)."""
        terms = self._accumulate(inputs, targets, self.micro_batch or len(inputs))
        return *terms.values(), self._optimizer_step()

    def drop_capture(self) -> bool:
        """Free the captured graph's memory; later steps run kernel by kernel.

        Returns False if no step is captured.
        """
        if self.captured is None:
            return False
        self.captured = None
        torch.cuda.empty_cache()
        return True

    def _accumulate_or_shrink(self, inputs: Tokens, targets: Tokens) -> dict[str, Scalar]:
        """Compute losses and gradients, halving the micro-batch until it fits into memory."""
        before = random_state(self.device)
        whole = min(self.micro_batch or len(inputs), len(inputs))

        def reset() -> bool:
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            set_random_state(before, self.device)
            return False

        losses, size = retry_smaller(lambda size: self._accumulate(inputs, targets, size), whole, reset)
        if size < whole:
            self.micro_batch = size
        return losses

    def _accumulate(self, inputs: Tokens, targets: Tokens, size: int) -> dict[str, Scalar]:
        """Accumulate gradients over micro-batches of `size` sequences. Returns the losses by name.

        The loss is the mean over all counted tokens of the batch, whatever the size. Auxiliary terms are
        means over tokens, weighted by sequences. (The floor of `kl: free_bits` applies to the mean of a
        micro-batch, not of the batch.)
        """
        counted = (targets != IGNORED).sum()
        terms: dict[str, list[Tensor]] = {}
        for tokens, wanted in zip(inputs.split(size), targets.split(size), strict=True):
            with autocast(self.device, self.settings.cpu_precision):
                losses = self.objective(self.model, tokens, wanted, counted, len(tokens) / len(inputs))
            mark("forward")
            if losses.minimised.requires_grad:
                losses.minimised.backward()
            mark("backward")
            for name, value in losses.terms.items():
                terms.setdefault(name, []).append(value)
        return {name: torch.stack(values).sum() for name, values in terms.items()}

    def check(self, number: int) -> tuple[float, float]:
        """Return (loss, gradient norm) of the last step.

        Raises:
            TrainingFailed: one of them is not finite, or the loss exploded.
        """
        loss, norm = self.loss.item(), self.norm.item()
        self.check_alive(loss, norm, number)
        return loss, norm

    def check_alive(self, loss: float, norm: float, number: int) -> None:
        """Check that a loss and a gradient norm are usable.

        Args:
            loss: of the step, or a held-out one.
            norm: of the gradient.
            number: the step, for messages.

        Raises:
            TrainingFailed: loss or norm is not finite, or a loss in nats is EXPLODED times the first
                step's.
        """
        if not math.isfinite(loss):
            raise TrainingFailed(f"the loss became {loss} at step {number}")
        if not math.isfinite(norm):
            raise TrainingFailed(f"the gradient norm became {norm} at step {number}")
        first = self.first()
        # a distance near zero at the start may well be a multiple of that while rates are high
        if first is not None and self.objective.in_nats and loss > EXPLODED * first:
            raise TrainingFailed(
                f"the loss exploded to {loss:.1f} nats/token at step {number}, from {first:.1f} at the first"
            )

    def first(self) -> float | None:
        """Return the loss of the run's first step in nats/token; None before it."""
        if isinstance(self.first_loss, Tensor):
            self.first_loss = self.first_loss.item()
        return self.first_loss


def _root_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain: ending a failed capture raises another one."""
    while error.__context__ is not None:
        error = error.__context__
    return error
