"""Hybrid Dual-Path Linear as a torch module (arXiv 2602.07070; docs/papers.md, HDPL)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from surgery.context import Context
from surgery.ops.plain import is_plain, owns_weights
from surgery.projections.hdpl.group import evaluate, evaluate_by_modules, train, train_by_modules
from surgery.projections.rates import relative_rate


class HDPL(nn.Module):
    """y = BlockDiag(x) + D silu(z) (+ b).

    Parameters: `blocks` (blocks, d_out/blocks, d_in/blocks), `mu` and `logvar` d_in -> rank with bias,
    `decoder` rank -> d_out without bias, and `bias` (d_out,) only if the dense map had one.

    Attributes:
        steer: changes the latents' means (..., rank) before they are sampled or decoded, see
            `surgery.latents`; None: they stay as they are.
    """

    steer: nn.Module | None
    takes_context = True  # a call is `module(x, context)`

    def __init__(
        self, d_in: int, d_out: int, *, blocks: int, rank: int, kl_weight: float, kl: str, bias: bool = False
    ) -> None:
        super().__init__()
        assert d_in % blocks == d_out % blocks == 0, "checked where the architecture is read"
        self.kl_weight, self.kl = kl_weight, kl
        self.blocks = nn.Parameter(torch.empty(blocks, d_out // blocks, d_in // blocks))
        self.mu = nn.Linear(d_in, rank)
        self.logvar = nn.Linear(d_in, rank)
        self.decoder = nn.Linear(rank, d_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        self.register_module("steer", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as in the paper, but with the identity in every block (its code: in the first only).

        Blocks that are not square are orthogonal, as in the paper, but scaled like a dense map: unit inputs
        give unit outputs. The paper's are smaller by (d_in / (blocks d_out))^0.5; with these in gate and up
        the loss was 0.2 to 0.4 nats higher after 64k tokens (dim 48, 4 blocks).
        """
        blocks, rows, columns = self.blocks.shape
        with torch.no_grad():
            if rows == columns:
                self.blocks.copy_(torch.eye(rows).expand(blocks, rows, columns))
                self.blocks.add_(torch.randn_like(self.blocks), alpha=0.01)
            else:
                gain = max(1.0, blocks * rows / columns) ** 0.5
                nn.init.orthogonal_(self.blocks.view(blocks * rows, columns), gain)
            for encoder in (self.mu, self.logvar):
                bound = 1 / math.sqrt(encoder.in_features)
                nn.init.uniform_(encoder.bias, -bound, bound)
            nn.init.orthogonal_(self.mu.weight)
            nn.init.zeros_(self.logvar.weight)
            nn.init.orthogonal_(self.decoder.weight)
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates relative to a dense map's, by parameter; used by the rule `width`."""
        d_in, rank = self.mu.in_features, self.decoder.in_features
        return {
            "blocks": relative_rate(d_in, self.blocks.shape[2]),
            "decoder.weight": relative_rate(d_in, rank),
        }

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Set blocks and decoder to zero; the encoders stay as they are, so that the decoder can learn."""
        self.blocks.zero_()
        self.decoder.weight.zero_()

    def forward(
        self, x: Float[Tensor, "*batch d_in"], context: Context | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Return the output; in training, with noise and the KL loss appended to the context's losses."""
        return self.together([self], x, context)[0]

    @staticmethod
    def together(
        siblings: Sequence[HDPL], x: Float[Tensor, "*batch d_in"], context: Context | None
    ) -> list[Float[Tensor, "*batch _"]]:
        """Return the outputs of projections of the same input; their blocks, ranks and KL may differ.

        They are computed from the weights if all inner layers are ordinary ones, and otherwise one by one by
        calling the inner layers, so that adapters on them have their effect.
        """
        if not all(m._is_plain() and m.training == siblings[0].training for m in siblings):
            if len(siblings) > 1:
                return [m.together([m], x, context)[0] for m in siblings]
            if not siblings[0]._is_plain():
                return [siblings[0]._by_modules(x, context)]
        weights = [(m.mu, m.logvar, m.blocks, m.decoder.weight, m.bias) for m in siblings]
        tokens = x.reshape(x.shape[:-1].numel(), x.shape[-1])  # not -1, which is ambiguous for no tokens
        if siblings[0].training:
            forms = [m.kl if context is not None and m.kl_weight else "" for m in siblings]
            outputs, loss = train(tokens, weights, forms, [m.kl_weight for m in siblings])
            if context is not None and any(forms):
                context.losses.append(loss)
        else:
            outputs = evaluate(tokens, weights, [m.steer for m in siblings])
        return [y.view(*x.shape[:-1], y.shape[-1]) for y in outputs]

    def _is_plain(self) -> bool:
        """Return whether the weights alone determine the operator; in evaluation a `steer` may be added."""
        if self.training and self.steer is not None:
            return False
        inner = (self.mu, self.logvar, self.decoder)
        if not (owns_weights(self) and all(is_plain(layer, nn.Linear) for layer in inner)):
            return False
        return self.mu.bias is not None and self.logvar.bias is not None and self.decoder.bias is None

    def _by_modules(
        self, x: Float[Tensor, "*batch d_in"], context: Context | None
    ) -> Float[Tensor, "*batch d_out"]:
        """Compute the operator by calling its inner layers, which may have been replaced."""
        tokens = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        layers = self._mean, self.logvar, self.blocks, self.decoder, self.bias
        if self.training:
            form = self.kl if context is not None and self.kl_weight else ""
            y, loss = train_by_modules(tokens, *layers, form, self.kl_weight)
            if context is not None and form:
                context.losses.append(loss)
        else:
            y = evaluate_by_modules(tokens, *layers)
        return y.view(*x.shape[:-1], y.shape[-1])

    def _mean(self, x: Float[Tensor, "t d_in"]) -> Float[Tensor, "t rank"]:
        """Return the latents' means, steered."""
        mean: Tensor = self.mu(x)
        return mean if self.steer is None else self.steer(mean)
