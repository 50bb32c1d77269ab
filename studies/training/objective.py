"""The losses of a training step."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from surgery.model import HybridLM

Tokens = Int[Tensor, "b t"]  # ids
Count = Int[Tensor, ""]
Scalar = Float[Tensor, ""]


class Losses(NamedTuple):
    """Losses of a micro-batch, scaled such that those of all micro-batches add up to the batch's.

    Attributes:
        minimised: the loss with its graph; a loss without one has already left its gradients in `grad`.
        terms: detached losses that are reported, by name; `loss` and `auxiliary` are always there.
    """

    minimised: Scalar
    terms: dict[str, Scalar]


@runtime_checkable
class Objective(Protocol):
    """A loss that a training step minimises.

    Attributes:
        in_nats: the reported `loss` is a cross-entropy in nats/token, comparable with the held-out loss.
    """

    in_nats: bool

    def __call__(
        self, model: HybridLM, tokens: Tokens, targets: Tokens, counted: Count, share: float
    ) -> Losses:
        """Compute the losses of a micro-batch.

        Args:
            model: the model in training.
            tokens: token ids.
            targets: token ids; a target of -100 does not count.
            counted: number of targets of the whole batch that count.
            share: sequences of the micro-batch as a share of the batch's.
        """
        ...


class CrossEntropy:
    """Cross-entropy with the text, plus the layers' auxiliary losses."""

    in_nats = True

    def __call__(
        self, model: HybridLM, tokens: Tokens, targets: Tokens, counted: Count, share: float
    ) -> Losses:
        """Compute the losses of a micro-batch, see `Objective`."""
        loss, auxiliary = model.loss(tokens, targets, reduction="sum")
        loss, auxiliary = loss / counted, auxiliary * share
        return Losses(loss + auxiliary, {"loss": loss.detach(), "auxiliary": auxiliary.detach()})
