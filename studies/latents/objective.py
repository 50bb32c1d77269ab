"""The loss of adapters: cross-entropy with latents at their means, as in generation."""

from __future__ import annotations

from studies.training.objective import Count, CrossEntropy, Losses, Tokens
from surgery.model import HybridLM
from surgery.projections.hdpl.module import HDPL


class WithoutNoise(CrossEntropy):
    """Cross-entropy with the text, without the noise of HDPL and its auxiliary losses.

    What is trained are shifts of the means, which evaluation decodes; noise would only blur their gradients.
    """

    def __call__(
        self, model: HybridLM, tokens: Tokens, targets: Tokens, counted: Count, share: float
    ) -> Losses:
        """Compute the losses of a micro-batch, see `Objective`."""
        for module in model.modules():
            if isinstance(module, HDPL):
                module.eval()
        return super().__call__(model, tokens, targets, counted, share)
