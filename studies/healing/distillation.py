"""The objective of healing: the text's tokens, the teacher's distributions over the vocabulary, or both."""

from __future__ import annotations

import torch
from torch import Tensor

from studies.training.objective import Losses
from surgery.model import HybridLM
from surgery.ops.distillation import linear_distillation


class Distillation:
    """(1 - kl_share) cross-entropy + kl_share KL(teacher || student), plus the layers' auxiliary losses."""

    in_nats = True

    def __init__(self, teacher: HybridLM, kl_share: float) -> None:
        """Distil from `teacher`, which is in evaluation mode and has the student's vocabulary."""
        self.teacher, self.kl_share = teacher, kl_share

    def __call__(
        self, model: HybridLM, tokens: Tensor, targets: Tensor, counted: Tensor, share: float
    ) -> Losses:
        """Compute the losses of a micro-batch; `loss` is the cross-entropy, `kl` the divergence."""
        with torch.no_grad():
            wanted = self.teacher(tokens)
        given: list[Tensor] = []
        hidden = model(tokens, losses=given)
        total, cross_entropy, divergence = linear_distillation(
            hidden, model.head.weight, targets, wanted, self.teacher.head.weight, self.kl_share
        )
        auxiliary = torch.stack(given).sum() * share if given else total.new_zeros(())
        terms = {"loss": cross_entropy / counted, "auxiliary": auxiliary.detach(), "kl": divergence / counted}
        return Losses(total / counted + auxiliary, terms)
