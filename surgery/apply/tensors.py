"""Where every tensor of the new model comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from surgery.apply.families import source_name
from surgery.apply.source import SourceModel
from surgery.architecture import Architecture
from surgery.model import HybridLM

ACTIONS = ("kept", "averaged", "fitted", "new", "shared")


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the new model. `action`: `kept` bit for bit, `averaged` over folded layers, `fitted` to
    dense weights, `new` (initialised), or `shared` with the embedding."""

    name: str
    action: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return 0 if self.action == "shared" else _bytes(self.shape, self.dtype)

    @property
    def projection(self) -> tuple[int, str]:
        """(layer, projection) of a fitted tensor."""
        parts = self.name.split(".")
        return int(parts[1]), parts[3]


def plan_tensors(
    source: SourceModel, after: Architecture, groups: tuple[tuple[int, ...], ...]
) -> Iterator[TensorPlan]:
    """One plan a tensor. `groups`: for each physical layer the model's layers that become it."""
    with torch.device("meta"):
        model = HybridLM(after)
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if name == "head.weight" and after.backbone.tie_embeddings:
            embed = source.tensors["model.embed_tokens.weight"]
            yield TensorPlan(name, "shared", (), shape, _dtype(embed.dtype))
            continue
        parents = _parents(name, after, groups)
        parents = tuple(parent for parent in parents if parent in source.tensors)
        place = _operator_of(name, after)
        if place is not None and not _is_carried(name, after):
            fits = parents and source.tensors[parents[0]].shape == _dense_shape(place, after)
            action, parents = ("fitted", parents) if fits else ("new", ())
        elif parents and source.tensors[parents[0]].shape == shape:
            action = "averaged" if len(parents) > 1 else "kept"
        else:
            action, parents = "new", ()
        dtype = source.tensors[parents[0] if parents else "model.norm.weight"].dtype
        yield TensorPlan(name, action, parents, shape, _dtype(dtype))


def _operator_of(name: str, after: Architecture) -> tuple[int, str, str] | None:
    """(layer, projection, operator) that a tensor belongs to; None for norms, embeddings and the like."""
    parts = name.split(".")
    if parts[0] != "layers" or len(parts) < 5 or parts[3] not in after.layers[int(parts[1])].projections:
        return None
    index = int(parts[1])
    return index, parts[3], after.layers[index].projections[parts[3]].name


def _dense_shape(place: tuple[int, str, str], after: Architecture) -> tuple[int, int]:
    """(outputs, inputs) of the dense weight that an operator can be fitted to. A mixer of another kind may
    have projections of the same names and other sizes, or of names that the model lacks."""
    item = after.layers[place[0]].projections[place[1]]
    return item.d_out, item.d_in


def _is_carried(name: str, after: Architecture) -> bool:
    """Whether the tensor means what the source's of the same name means."""
    place = _operator_of(name, after)
    return place is None or place[2] == "dense" or name.endswith(f".{place[1]}.bias")


def _parents(name: str, after: Architecture, groups: tuple[tuple[int, ...], ...]) -> tuple[str, ...]:
    """The checkpoint's names that a tensor comes from, one for each layer folded onto its own."""
    place = _operator_of(name, after)
    if place is not None and not _is_carried(name, after):
        name = ".".join([*name.split(".")[:4], "weight"])  # the operator as a whole replaces this weight
    parts = name.split(".")
    layers = groups[int(parts[1])] if parts[0] == "layers" else (0,)
    names = []
    for layer in layers:
        if parts[0] == "layers":
            parts[1] = str(layer)
        theirs = source_name(".".join(parts))
        if theirs is not None:
            names.append(theirs)
    return tuple(names)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    size = int(getattr(torch, dtype).itemsize)
    for length in shape:
        size *= length
    return size
