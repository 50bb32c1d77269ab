"""The weights with the lowest held-out loss of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from studies.training.validation import Evaluation


class Best:
    """A copy of the best weights so far, on the CPU in the dtypes in which they will be written.

    Attributes:
        label: name of the training that offers weights now.
        kept: name of the training that the best weights are from.
        step: its step after which they were measured; 0 before any training.
        evaluation: their held-out loss.
    """

    def __init__(self, model: nn.Module, dtypes: Mapping[str, torch.dtype], evaluation: Evaluation) -> None:
        """Start with the model as it is.

        Args:
            model: the model in training.
            dtypes: final dtype of each tensor of its state.
            evaluation: its held-out loss before training.
        """
        self.dtypes = dtypes
        self.label = self.kept = "rewritten"
        self.step, self.evaluation, self.weights = 0, evaluation, self._copy(model)

    def offer(self, model: nn.Module, evaluation: Evaluation, step: int) -> None:
        """Keep the model's weights if they are better than those before."""
        if evaluation.val_loss < self.evaluation.val_loss:
            self.kept, self.step = self.label, step
            self.evaluation, self.weights = evaluation, self._copy(model)

    def state(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return {
            "kept": self.kept,
            "step": self.step,
            "evaluation": vars(self.evaluation),
            "weights": self.weights,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved `state`."""
        self.kept, self.step, self.weights = state["kept"], state["step"], state["weights"]
        self.evaluation = Evaluation(**state["evaluation"])

    @torch.no_grad()
    def write_to(self, model: nn.Module) -> None:
        """Set the model's parameters to the best weights, in the model's own dtypes."""
        model.load_state_dict(self.weights)

    @torch.no_grad()
    def _copy(self, model: nn.Module) -> dict[str, Tensor]:
        """Return copies of the tensors, of shared ones only one copy."""
        copies: dict[int, Tensor] = {}
        weights = {}
        for name, tensor in model.state_dict().items():
            if tensor.data_ptr() not in copies or not tensor.numel():
                copies[tensor.data_ptr()] = tensor.detach().to("cpu", self.dtypes[name], copy=True)
            weights[name] = copies[tensor.data_ptr()]
        return weights
