"""The model of an architecture, used by proxy training, `nas train` and `nas apply`.

Parameter names: `embed`, `layers.N.{mixer_norm,mixer,ffn_norm,ffn}`, `norm`, `head`, `loop_gate`.
Shapes: b batch, t new tokens, s all tokens including the cached ones, d model width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.architecture import Architecture, Layer
from surgery.config.backbone import FFN_PROJECTIONS, Backbone
from surgery.context import Context, DecodeCache
from surgery.mixers import MIXERS
from surgery.ops.cross_entropy import linear_cross_entropy
from surgery.ops.padding import Padding, read_padding
from surgery.ops.plain import is_plain
from surgery.ops.residual import add_norm
from surgery.ops.rotary import RotaryTables, rotary_tables
from surgery.ops.swiglu import swiglu
from surgery.projections import PROJECTION_OPERATORS
from surgery.projections.deltas import Deltas
from surgery.projections.dense.module import Dense
from surgery.projections.siblings import project


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.gate, self.up, self.down = (_projection(layer, name) for name in ("gate", "up", "down"))

    def forward(self, x: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        """Return the feed-forward output of `x`."""
        gate, up = project(x, context, self.gate, self.up)
        return project(swiglu(gate, up), context, self.down)[0]


class Block(nn.Module):
    """Residual block: u = h + Mixer(norm(h)); u + SwiGLU(norm(u)).

    In layers with `post_norm`: u = h + norm(Mixer(h)); u + norm(SwiGLU(u)). A layer may lack either part,
    with its norm, or both: it then adds nothing.

    Attributes:
        checkpoint: calls a function so that its activations are recomputed in the backward pass
            (`torch.utils.checkpoint.checkpoint`). None: all activations are kept.
    """

    def __init__(self, backbone: Backbone, layer: Layer) -> None:
        super().__init__()
        self.checkpoint: Callable[..., Any] | None = None
        spec = MIXERS[layer.mixer]
        self.mixer_norm = nn.RMSNorm(backbone.dim, eps=backbone.norm_eps) if spec.mixes else None
        self.mixer = spec.build(backbone, layer.mixer_options, lambda name: _projection(layer, name))
        self.ffn_norm = nn.RMSNorm(backbone.dim, eps=backbone.norm_eps) if layer.ffn_dim else None
        self.ffn = SwiGLU(layer) if layer.ffn_dim else None
        self.post_norm, self.rotary = layer.post_norm, layer.rotary

    def add_deltas(self, layer: Layer, passes: int, rank: int) -> None:
        """Give every projection low-rank changes of its own in each of `passes` later passes."""
        for name, item in layer.projections.items():
            projection = getattr(self.ffn if name in FFN_PROJECTIONS else self.mixer, name)
            projection.add_module("deltas", Deltas(passes, rank, item.d_in, item.d_out))

    def forward(self, h: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
        """Return the residual stream after this block."""
        if not self.rotary:
            cos, sin = context.rotary
            context = replace(context, rotary=(torch.ones_like(cos), torch.zeros_like(sin)))
        parts = ((self.mixer, self.mixer_norm), (self.ffn, self.ffn_norm))
        y: Tensor | None = None  # output of the last part, not yet added
        for part, norm in parts:
            if part is None or norm is None:
                continue
            if self.post_norm:
                h = h if y is None else h + y
                y = norm(part(h, context))
            else:
                h, x = add_norm(h, y, norm)
                y = part(x, context)
        return h if y is None else h + y


class HybridLM(nn.Module):
    """Decoder-only language model: token ids -> hidden states -> logits.

    The blocks of the span, which may be the whole stack, run `loop_count` times with shared weights. Pass t
    adds `loop_gate[t] * h`, with a zero-initialised gate per pass and channel (LT2, arXiv 2605.20670,
    section 2.1): h(t) = Blocks(h(t-1)) + rho_t * h(t-1). With `loop_inject` every later pass begins with
    h(t-1) + `inject_gate[t-1]` * h(0), also zero-initialised: what came into the span is not forgotten. With
    `loop_delta_rank` every later pass adds low-rank matrices of its own to the projections (`Deltas`).
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        backbone = architecture.backbone
        self.architecture = architecture
        self.rotary = RotaryTables(backbone)
        self.run_block: Callable[[nn.Module, Tensor, Context], Tensor] = _run  # or `CompiledBlocks`
        self.embed = nn.Embedding(backbone.vocab_size, backbone.dim)
        self.layers = nn.ModuleList(Block(backbone, layer) for layer in architecture.layers)
        if architecture.delta_rank:
            for index in architecture.looped:
                block = cast("Block", self.layers[index])
                block.add_deltas(
                    architecture.layers[index], architecture.loop_count - 1, architecture.delta_rank
                )
        self.norm = nn.RMSNorm(backbone.dim, eps=backbone.norm_eps)
        self.head = nn.Linear(backbone.dim, backbone.vocab_size, bias=False)
        self.loop_gate = (
            nn.Parameter(torch.zeros(architecture.loop_count, backbone.dim))
            if architecture.loop_count > 1
            else None
        )
        self.inject_gate = (
            nn.Parameter(torch.zeros(architecture.loop_count - 1, backbone.dim))
            if architecture.loop_count > 1 and architecture.loop_inject
            else None
        )
        self.reset_parameters()
        if backbone.tie_embeddings:
            self.head.weight = self.embed.weight

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the weights: truncated normals of std d_in^-0.5, zeros for maps into the residual.

        With `post_norm` the gains of the norms after mixer and SwiGLU are zero instead: the gradient of a
        norm of zeros has no bound.

        The stack then starts as the identity for all mixers, depths and passes (Fixup, 1901.09321; muP's
        appendix D.2, 2203.03466), so that no mixer first has to unlearn noise of its own. With residual maps
        scaled by depth instead, the loss after 100k tokens was one nat higher for Gated DeltaNet, whose
        output is normed and therefore not small at the start, and half a nat higher for full attention.

        A tied head would then initially predict every token as its own successor: the last hidden state is
        the token's embedding, of length dim^0.5, and the loss starts near dim^0.5 nats, 32 at width 1,024.
        The gains of a tied model's last norm therefore start as alternating 1 and -1. Outputs are then nearly
        independent of inputs at every width, and the loss starts where it does with an untied head
        (docs/results/tied-start.md). Changing this initialisation changes `studies.study.rules`.
        """
        normed_after = self.architecture.backbone.layers_with_post_norm(len(self.layers))
        for name, module in self.named_modules():
            post_norm = name.startswith("layers.") and int(name.split(".")[1]) in normed_after
            if isinstance(module, Dense | nn.Embedding) or module is self.head:
                std = module.weight.shape[1] ** -0.5
                nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
            if isinstance(module, Dense) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith((".o", ".down")) and not post_norm:
                module.start_at_zero()
            if name.endswith((".mixer_norm", ".ffn_norm")) and post_norm:
                nn.init.zeros_(module.weight)
        if self.architecture.backbone.tie_embeddings:
            self.norm.weight[1::2] = -1

    def forward(
        self,
        tokens: Int[Tensor, "b t"] | None,
        *,
        attention_mask: Tensor | None = None,
        positions: Int[Tensor, "#b t"] | None = None,
        cache: DecodeCache | None = None,
        losses: list[Float[Tensor, ""]] | None = None,
        embeddings: Float[Tensor, "b t d"] | None = None,
        states: list[Float[Tensor, "b t d"]] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return the normed hidden states of the new tokens.

        Args:
            tokens: ids of the new tokens; ignored if `embeddings` is given.
            attention_mask: (b, s), nonzero at real tokens, cached and new ones. Padding may be
                anywhere in a row and does not change the results of real tokens. None: all new tokens are
                real.
            positions: position ids of the new tokens. None: counted from the first real token of each row.
            cache: decoding state, extended by the new tokens.
            losses: list that receives the weighted auxiliary losses.
            embeddings: input embeddings, instead of those of `tokens`.
            states: list that receives the input of every layer in order of execution, once per loop pass.

        Raises:
            ValueError: the mask does not fit the tokens or the cache.
        """
        h = self.embed(tokens) if embeddings is None else embeddings
        padding = read_padding(
            attention_mask,
            cache.real if cache is not None else None,
            batch=h.shape[0],
            past=cache.length if cache is not None else 0,
            new=h.shape[1],
        )
        if padding is not None:
            h = padding.align(h)
        context = self._context(h, padding, positions, cache)
        if losses is not None:
            context.losses = losses

        def run(h: Tensor, indices: range, loop: int) -> Tensor:
            for index in indices:
                context.slot = (index, loop)
                if states is not None:
                    states.append(h if padding is None else padding.restore(h))
                h = self._run_layer(self.layers[index], h, context)
            return h

        span = self.architecture.looped
        h = first = run(h, range(span.start), 0)
        for loop in range(self.architecture.loop_count):
            if self.inject_gate is not None and loop:
                h = h + self.inject_gate[loop - 1] * first
            entry = h
            context.window = self.architecture.window(loop)
            h = run(h, span, loop)
            if self.loop_gate is not None:
                h = h + self.loop_gate[loop] * entry
        if span.stop < len(self.layers):
            context.window = None
            h = run(h, range(span.stop, len(self.layers)), 0)
        if cache is not None:
            cache.length += h.shape[1]
            cache.real = padding.given if padding is not None else None
        hidden = add_norm(h, None, self.norm)[1]
        return hidden if padding is None else padding.restore(hidden)

    def _run_layer(
        self, block: nn.Module, h: Float[Tensor, "b t d"], context: Context
    ) -> Float[Tensor, "b t d"]:
        checkpoint: Any = block.checkpoint
        if checkpoint is None or not (self.training and torch.is_grad_enabled()):
            return self.run_block(block, h, context)
        assert context.cache is None, "recomputation would cache the same tokens twice"
        # a copy for the recomputation: the model's context has changed by then
        y, *losses = checkpoint(partial(self._run_alone, block, replace(context, losses=[])), h)
        context.losses.extend(losses)
        return cast("Tensor", y)

    def _run_alone(self, block: nn.Module, context: Context, h: Float[Tensor, "b t d"]) -> tuple[Tensor, ...]:
        """Return (output, *auxiliary losses) of a layer, without appending to the context's list."""
        own = replace(context, losses=[])
        return (self.run_block(block, h, own), *own.losses)

    def loss(
        self, tokens: Int[Tensor, "b t"], targets: Int[Tensor, "b t"], *, reduction: str = "mean"
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return (cross-entropy in nats, sum of the weighted auxiliary losses).

        Args:
            tokens: input ids.
            targets: next-token ids; -100 is ignored.
            reduction: `mean` over the targets that are not -100, or `sum`.
        """
        auxiliary: list[Tensor] = []
        hidden = self(tokens, losses=auxiliary)
        if is_plain(self.head, nn.Linear):
            loss = linear_cross_entropy(hidden, self.head.weight, targets, reduction=reduction)
        else:
            logits = self.head(hidden).flatten(0, -2)
            accumulation_dtype = torch.promote_types(logits.dtype, torch.float32)
            loss = F.cross_entropy(logits.to(accumulation_dtype), targets.flatten(), reduction=reduction)
        return loss, torch.stack(auxiliary).sum() if auxiliary else loss.new_zeros(())

    def _context(
        self,
        h: Float[Tensor, "b t d"],
        padding: Padding | None,
        positions: Int[Tensor, "#b t"] | None,
        cache: DecodeCache | None,
    ) -> Context:
        length = h.shape[1]
        seen = cache.length if cache is not None else 0
        if padding is not None and positions is not None:
            positions = padding.align(positions)
        elif padding is not None:
            positions = (padding.real.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        if positions is not None:
            rotary = rotary_tables(self.architecture.backbone, positions)
        else:
            rotary = self.rotary(seen, seen + length, h.device)
        if padding is None:
            return Context(rotary, seen, cache=cache)
        return Context(rotary, seen, padding.real, cache=cache, gap=padding.gap)


def _run(block: nn.Module, h: Float[Tensor, "b t d"], context: Context) -> Float[Tensor, "b t d"]:
    y: Tensor = block(h, context)
    return y


def _projection(layer: Layer, name: str) -> nn.Module:
    item = layer.projections[name]
    return PROJECTION_OPERATORS[item.name].build(item.d_in, item.d_out, item.bias, item.options)
