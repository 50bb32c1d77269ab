"""Parts: which rows of which stored tensor a family's tensors are, for reading and for writing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from surgery.apply.families import FAMILIES
from surgery.apply.slots import Slot, Slots, Spans
from surgery.apply.weights import TensorInfo

_NORMS = (
    "input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm", "model.norm",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """The location of a tensor: these rows of a stored one, times a factor, plus an offset."""

    stored: str
    stored_shape: tuple[int, ...]
    shape: tuple[int, ...]
    rows: Spans | None = None
    factor: float = 1.0
    offset: float = 0.0

    def of(self, stored: TensorInfo) -> TensorInfo:
        """Return the tensor, given the stored one."""
        return replace(stored, shape=self.shape, rows=self.rows, factor=self.factor, offset=self.offset)

    def write(self, tensor: Tensor, into: dict[str, Tensor]) -> None:
        """Set the stored rows to the tensor.

        Differences from an offset are float32, which is exact for numbers of half precision around one.
        """
        assert self.factor == 1, "no family with factors is written"
        if self.offset:
            tensor = tensor.float() - self.offset
        if self.rows is None:
            into[self.stored] = tensor
            return
        whole = into.setdefault(self.stored, tensor.new_empty(self.stored_shape))
        done = 0
        for start, stop in self.rows:
            whole[start:stop] = tensor[done : done + stop - start]
            done += stop - start


def parts(kind: str, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Part]:
    """Return the location of each tensor in a checkpoint.

    Args:
        kind: the `model_type`.
        config: transformers' configuration object.
        shapes: by the names of Llama.
    """
    family = FAMILIES[kind]
    factors = family.factors(config)
    kinds: list[str] = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    slots = {name: family.slots(config, name) for name in set(kinds)}
    located: dict[str, Part] = {}
    heights: dict[str, int] = {}  # of fused tensors: the end of the last span
    for name, shape in shapes.items():
        words = name.split(".")
        depth = 3 if name.startswith("model.layers.") else 0
        inner = ".".join(words[depth:])
        slot = _find(slots[kinds[int(words[2])]] if depth else {}, inner)
        stored = ".".join((*words[:depth], slot.stored))
        heights[stored] = max([heights.get(stored, 0), *(stop for _, stop in slot.rows or ())])
        module = inner.rpartition(".")[0]
        offset = 1.0 if family.centred and module in _NORMS else 0.0
        located[name] = Part(stored, shape, shape, slot.rows, factors.get(module, 1.0), offset)
    return {
        name: replace(part, stored_shape=(heights[part.stored], *part.shape[1:])) if part.rows else part
        for name, part in located.items()
    }


def _find(slots: Slots, name: str) -> Slot:
    """Return the slot of a parameter by its name within the layer, or else by that of its module."""
    if name in slots:
        return slots[name]
    module, _, parameter = name.rpartition(".")
    slot = slots.get(module, Slot(module))
    return replace(slot, stored=f"{slot.stored}.{parameter}")
