"""The objective of healing: the text's tokens, the teacher's distributions, and its hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from studies.training.objective import Losses
from surgery.model import HybridLM
from surgery.ops.distillation import linear_distillation


class Distillation:
    """(1 - kl_share) cross-entropy + kl_share KL(teacher || student), plus the layers' auxiliary losses.

    With a `hidden_weight`, also that times the mean of 1 - cosine similarity of both models' hidden states,
    over the inputs of all layers and the normed output, as Puzzle's global distillation (arXiv 2411.19146,
    section 5).
    """

    in_nats = True

    def __init__(self, teacher: HybridLM, kl_share: float, hidden_weight: float = 0.0) -> None:
        """Distil from `teacher`, which is in evaluation mode and has the student's vocabulary."""
        self.teacher, self.kl_share, self.hidden_weight = teacher, kl_share, hidden_weight

    def __call__(
        self, model: HybridLM, tokens: Tensor, targets: Tensor, counted: Tensor, share: float
    ) -> Losses:
        """Compute the losses of a micro-batch; `loss` is the cross-entropy, `kl` the divergence."""
        compares = self.hidden_weight > 0
        theirs: list[Tensor] = []
        ours: list[Tensor] = []
        with torch.no_grad():
            wanted = self.teacher(tokens, states=theirs if compares else None)
        given: list[Tensor] = []
        hidden = model(tokens, losses=given, states=ours if compares else None)
        total, cross_entropy, divergence = linear_distillation(
            hidden, model.head.weight, targets, wanted, self.teacher.head.weight, self.kl_share
        )
        auxiliary = torch.stack(given).sum() * share if given else total.new_zeros(())
        terms = {"loss": cross_entropy / counted, "auxiliary": auxiliary.detach(), "kl": divergence / counted}
        minimised = total / counted + auxiliary
        if compares:
            # the first state is the embedding, whose distance is not that of any layer
            distance = hidden_distance([*ours[1:], hidden], [*theirs[1:], wanted]) * share
            terms["hidden"] = distance.detach()
            minimised = minimised + self.hidden_weight * distance
        return Losses(minimised, terms)


def hidden_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Return the mean of 1 - cosine similarity over tokens and states."""
    assert len(ours) == len(theirs), "both models run as many layers"
    distances = [
        1 - F.cosine_similarity(mine.float(), wanted.float(), dim=-1).mean()
        for mine, wanted in zip(ours, theirs, strict=True)
    ]
    return torch.stack(distances).mean()
