"""The origin of every tensor of the new model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from surgery.apply.families import source_name
from surgery.apply.source import SourceModel
from surgery.architecture import Architecture, Layer
from surgery.config.backbone import FFN_PROJECTIONS
from surgery.mixers import MIXERS
from surgery.mixers.base import Carry
from surgery.model import HybridLM

ACTIONS = ("kept", "averaged", "fitted", "transplanted", "pruned", "silent", "new", "shared")


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the new model.

    `action`: `kept` bit for bit, `averaged` over folded layers, `fitted` to dense weights, `transplanted` out
    of the tensors of another mixer, `pruned` to the hidden channels that count most, `silent` (zero, so that
    its part adds nothing), `new` (initialised), or `shared` with the embedding.
    """

    name: str
    action: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size in the checkpoint."""
        if self.action == "shared":
            return 0
        width: int = getattr(torch, self.dtype).itemsize
        return width * math.prod(self.shape)

    @property
    def layer(self) -> int | None:
        """The layer that it belongs to; None: to none."""
        parts = self.name.split(".")
        return int(parts[1]) if parts[0] == "layers" else None

    @property
    def projection(self) -> tuple[int, str]:
        """(layer, projection) of a fitted tensor."""
        parts = self.name.split(".")
        return int(parts[1]), parts[3]


def plan_tensors(
    source: SourceModel, after: Architecture, groups: tuple[tuple[int, ...], ...]
) -> Iterator[TensorPlan]:
    """Yield one plan per tensor. `groups`: for each physical layer, the model's layers folded onto it."""
    with torch.device("meta"):
        model = HybridLM(after)
    origins = [mixer_origins(source.architecture, after, index, group) for index, group in enumerate(groups)]
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if name == "head.weight" and after.backbone.tie_embeddings:
            embed = source.tensors["model.embed_tokens.weight"]
            yield TensorPlan(name, "shared", (), shape, _dtype(embed.dtype))
            continue
        action, parents = _origin(name, source, after, groups, origins)
        dtype = source.tensors[parents[0] if parents else "model.norm.weight"].dtype
        yield TensorPlan(name, action, parents, shape, _dtype(dtype))


def mixer_origins(
    before: Architecture, after: Architecture, index: int, group: tuple[int, ...]
) -> Mapping[str, Carry] | None:
    """Return the origin of the parameters of a layer's mixer by what its spec declares; None: all are kept.

    Nothing is carried from layers of several kinds that are folded onto each other.
    """
    layer, old = after.layers[index], before.layers[group[0]]
    spec, old_spec = MIXERS[layer.mixer], MIXERS[old.mixer]
    if any(before.layers[other] != old for other in group):
        return {}
    options, old_options = (
        kind.canonical(after.backbone, item.mixer_options) for kind, item in ((spec, layer), (old_spec, old))
    )
    if layer.mixer == old.mixer and options == old_options:
        return None
    return spec.carry(after.backbone, layer.mixer_options, old_spec, old.mixer_options)


def _origin(
    name: str,
    source: SourceModel,
    after: Architecture,
    groups: tuple[tuple[int, ...], ...],
    origins: list[Mapping[str, Carry] | None],
) -> tuple[str, tuple[str, ...]]:
    """Return (action, checkpoint's tensors) of a tensor that is not shared."""
    parts = name.split(".")
    if parts[0] != "layers":
        parent = source_name(name)
        return ("kept", (parent,)) if parent in source.tensors else ("new", ())
    index, part, end = int(parts[1]), parts[2], ".".join(parts[3:])
    layer = after.layers[index]
    declared = origins[index] if part == "mixer" else None
    if part in ("mixer_norm", "ffn_norm"):
        stays = all(source.architecture.layers[old].post_norm == layer.post_norm for old in groups[index])
        declared = None if stays else {}
    carry: Carry | None = Carry((end,), unchanged=True)
    if declared is not None:
        carry = declared.get(parts[3])
    projection = None
    if len(parts) > 4 and parts[3] in layer.projections:
        of_part = (parts[3] in FFN_PROJECTIONS) == (part == "ffn")  # a mixer may have a `gate` too
        projection = parts[3] if of_part else None
    if carry is None:
        return "silent" if projection == "o" else "new", ()
    dense = projection is None or layer.projections[projection].name == "dense"
    action, ends = "transplanted", tuple[str, ...]()
    if not (dense or end == f"{projection}.bias"):  # the operator replaces the weight as a whole
        action, ends = "fitted", (f"{projection}.weight",)
    elif part == "ffn" and end != "down.bias" and _narrower(source, layer, groups[index]):
        action, ends = "pruned", (end,)
    elif carry.unchanged:
        action, ends = "averaged" if len(groups[index]) > 1 else "kept", (end,)
    if not carry.unchanged:
        ends = tuple(f"{module}.weight" for module in carry.sources)
    parents = (source_name(f"layers.{old}.{part}.{item}") for old in groups[index] for item in ends)
    return action, tuple(parent for parent in parents if parent in source.tensors)


def _narrower(source: SourceModel, layer: Layer, group: tuple[int, ...]) -> bool:
    """Return whether a layer's feed-forward part is narrower than in the layers that it is made from."""
    return any(layer.ffn_dim < source.architecture.layers[old].ffn_dim for old in group)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
