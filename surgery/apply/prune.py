"""Narrower feed-forward parts: the hidden channels of the original that count most.

A channel i of down(silu(gate(x)) up(x)) is one row of gate, one of up and one column of down. As in width
pruning by activations (Minitron, arXiv 2407.14679, section 2.2), channels are ranked on a text; here by the
energy that each adds to the output, E[(silu(g_i) u_i)^2] |down_i|^2
(docs/papers.md, Narrower feed-forward parts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from surgery.apply.families import source_name
from surgery.apply.fit import FitReport
from surgery.apply.plan import Plan
from surgery.apply.source import SourceModel
from surgery.apply.transplants import source_tensor
from surgery.config.backbone import FFN_PROJECTIONS
from surgery.hf.lazy import LazyTensor

State = Mapping[str, Tensor]  # of a feed-forward part: `gate.weight`, `up.bias`, ...


def prune(
    source: SourceModel,
    plan: Plan,
    index: int,
    state: dict[str, LazyTensor],
    text: Sequence[Float[Tensor, "_ d"]],
    device: torch.device,
) -> tuple[dict[str, Tensor], FitReport]:
    """Select a layer's hidden channels, and add its pruned parameters to `state`.

    Args:
        source: the checkpoint.
        plan: the plan, which prunes this layer's feed-forward part.
        index: physical layer.
        state: the new model's tensors so far, extended here.
        text: inputs of the feed-forward part, sequence by sequence; may be empty.
        device: device of the computation.

    Returns:
        The parameters of the dense part by their names in it, in float32 and also where an operator is to be
        fitted to them, and the error of its outputs.
    """
    before = original(source, plan, index)
    wide = {name: tensor.to(device, torch.float32) for name, tensor in before.items()}
    width = plan.after.layers[index].ffn_dim
    channels = most_important(channel_importance(wide, text), width)
    planned = {item.name: item for item in plan.tensors if item.layer == index}
    for name, tensor in selected(before, channels.cpu()).items():
        item = planned.get(f"layers.{index}.ffn.{name}")
        if item is not None and item.action == "pruned":
            state[item.name] = LazyTensor.of(tensor.contiguous())
    narrow = selected(wide, channels)
    label = f"{len(wide['gate.weight'])} -> {width}"
    return narrow, FitReport(index, "ffn", label, None, output_error(wide, narrow, text), 1)


def original(source: SourceModel, plan: Plan, index: int) -> dict[str, Tensor]:
    """Return the feed-forward part that a layer has in the checkpoint, averaged over folded layers."""
    group = plan.layers[index].sources[: 1 if plan.fold == "first" else None]
    result = {}
    for name in (f"{part}.{kind}" for part in FFN_PROJECTIONS for kind in ("weight", "bias")):
        parents = tuple(source_name(f"layers.{number}.ffn.{name}") or "" for number in group)
        if parents[0] in source.tensors:
            result[name] = source_tensor(source, parents)
    return result


@torch.inference_mode()
def channel_importance(part: State, text: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, " ffn_dim"]:
    """Return the mean energy that each hidden channel adds to the output on a text.

    Without a text: |gate_i| |up_i| |down_i|. The root of the energy is in proportion to it where silu is
    linear, inputs have no preferred direction, and gate_i is orthogonal to up_i.
    """
    gate, up, columns = (part[f"{name}.weight"] for name in FFN_PROJECTIONS)
    size: Tensor = columns.norm(dim=0)
    if not text:
        size *= gate.norm(dim=1) * up.norm(dim=1)
        return size
    total = torch.zeros_like(size)
    for x in text:
        total += hidden(part, x).square().sum(0)
    total *= size.square() / sum(len(x) for x in text)
    return total


def most_important(importance: Float[Tensor, " ffn_dim"], count: int) -> Int[Tensor, " _"]:
    """Return the channels with the largest importance, in ascending order; of equal ones the first."""
    return importance.sort(descending=True, stable=True).indices[:count].sort().values


def selected(part: State, channels: Int[Tensor, " _"]) -> dict[str, Tensor]:
    """Return a feed-forward part with these hidden channels alone."""
    rows = {name: tensor[channels] for name, tensor in part.items() if not name.startswith("down.")}
    bias = {name: part[name] for name in ("down.bias",) if name in part}
    return {**rows, "down.weight": part["down.weight"][:, channels], **bias}


def hidden(part: State, x: Float[Tensor, "_ d"]) -> Float[Tensor, "_ ffn_dim"]:
    """Return silu(gate(x)) up(x)."""
    gate, up = (F.linear(x, part[f"{name}.weight"], part.get(f"{name}.bias")) for name in ("gate", "up"))
    return F.silu(gate) * up


@torch.inference_mode()
def output_error(wide: State, narrow: State, text: Sequence[Float[Tensor, "_ d"]]) -> float | None:
    """Return RMS of the difference of two parts' outputs over RMS of the first one's; None without a text."""
    error = size = 0.0
    for x in text:
        wanted, given = (F.linear(hidden(part, x), part["down.weight"]) for part in (wide, narrow))
        error += float((given - wanted).square().sum())
        size += float(wanted.square().sum())
    return float((error / max(size, 1e-30)) ** 0.5) if text else None
