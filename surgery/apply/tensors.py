"""The origin of every tensor of the new model."""

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
    """One tensor of the new model.

    `action`: `kept` bit for bit, `averaged` over folded layers, `fitted` to dense weights, `new`
    (initialised), or `shared` with the embedding.
    """

    name: str
    action: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size in the checkpoint."""
        return 0 if self.action == "shared" else _bytes(self.shape, self.dtype)

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
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if name == "head.weight" and after.backbone.tie_embeddings:
            embed = source.tensors["model.embed_tokens.weight"]
            yield TensorPlan(name, "shared", (), shape, _dtype(embed.dtype))
            continue
        parents = _parents(name, after, groups)
        parents = tuple(parent for parent in parents if parent in source.tensors)
        operator = _operator_of(name, after)
        if operator is not None and not _is_carried(name, after):
            fits = parents and source.tensors[parents[0]].shape == _dense_shape(operator, after)
            action, parents = ("fitted", parents) if fits else ("new", ())
        elif parents and source.tensors[parents[0]].shape == shape:
            action = "averaged" if len(parents) > 1 else "kept"
        else:
            action, parents = "new", ()
        dtype = source.tensors[parents[0] if parents else "model.norm.weight"].dtype
        yield TensorPlan(name, action, parents, shape, _dtype(dtype))


def _operator_of(name: str, after: Architecture) -> tuple[int, str, str] | None:
    """Return (layer, projection, operator) of a tensor; None for norms, embeddings and similar tensors."""
    parts = name.split(".")
    if parts[0] != "layers" or len(parts) < 5 or parts[3] not in after.layers[int(parts[1])].projections:
        return None
    index = int(parts[1])
    return index, parts[3], after.layers[index].projections[parts[3]].name


def _dense_shape(operator: tuple[int, str, str], after: Architecture) -> tuple[int, int]:
    """Return (outputs, inputs) of the dense weight to which an operator can be fitted.

    Another mixer may have projections with the same names but other sizes, or with names that the model
    lacks.
    """
    layer, projection, _ = operator
    item = after.layers[layer].projections[projection]
    return item.d_out, item.d_in


def _is_carried(name: str, after: Architecture) -> bool:
    """Return whether the tensor has the same meaning as the source's tensor of the same name."""
    operator = _operator_of(name, after)
    return operator is None or operator[2] == "dense" or name.endswith(f".{operator[1]}.bias")


def _parents(name: str, after: Architecture, groups: tuple[tuple[int, ...], ...]) -> tuple[str, ...]:
    """Return the checkpoint's tensors from which a tensor is made, one per layer folded onto its own."""
    if _operator_of(name, after) is not None and not _is_carried(name, after):
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
