"""Models whose tensors are read one by one when they are needed, so that memory never holds a whole one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.architecture import Architecture
from surgery.context import Context
from surgery.model import Block, HybridLM

_HEAD_ROWS = 2048  # of the head that are converted at once
Convert = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read by every call of `read`. Its shape and dtype are known before."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> LazyTensor:
        """Return a tensor that is in memory already."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    def meta(self) -> Tensor:
        """Return shape and dtype as a tensor without values."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


LazyTensors = Mapping[str, LazyTensor]


@dataclass(frozen=True)
class LazyModel:
    """A model: its architecture, and its tensors by their names in `HybridLM`, in that order.

    The head is among them also where it is tied to the embedding.
    """

    architecture: Architecture
    tensors: LazyTensors

    @classmethod
    def of(cls, model: HybridLM) -> LazyModel:
        """Return a model that is in memory already, without copying it."""
        state = {name: LazyTensor.of(tensor.detach()) for name, tensor in model.state_dict().items()}
        return cls(model.architecture, state)

    def read(self) -> HybridLM:
        """Read the whole model, in evaluation mode. Tensors that are in memory already are not copied."""
        tied = self.architecture.backbone.tie_embeddings
        with torch.device("meta"):
            model = HybridLM(self.architecture)
        state = {
            name: tensor.read()
            for name, tensor in self.tensors.items()
            if not (tied and name == "head.weight")
        }
        if tied:
            state["head.weight"] = state["embed.weight"]
        model.load_state_dict(state, assign=True)
        if tied:
            model.head.weight = model.embed.weight
        return model.requires_grad_(True).eval()

    @torch.inference_mode()
    def logits(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute logits (batch, tokens, vocabulary) on the CPU, holding one layer at a time.

        Args:
            tokens: ids (batch, tokens).
            dtype: precision of the computation; the logits are float32.
        """
        with torch.device("meta"):
            model = HybridLM(self.architecture)
        model.eval().run_block = partial(self._run_layer, convert=_Buffers(dtype))
        outside = {
            name: tensor.read().to("cpu", dtype)
            for name, tensor in self.tensors.items() if name in ("norm.weight", "loop_gate")
        }  # fmt: skip
        model.load_state_dict(outside, strict=False, assign=True)
        embeddings = F.embedding(tokens, self.tensors["embed.weight"].read().cpu()).to(dtype)
        hidden = model(None, embeddings=embeddings)
        head = self.tensors["head.weight"].read()
        return torch.cat(
            [F.linear(hidden, rows.to("cpu", dtype)) for rows in head.split(_HEAD_ROWS)], -1
        ).float()

    def _run_layer(self, _: nn.Module, h: Tensor, context: Context, *, convert: Convert) -> Tensor:
        y: Tensor = make_block(self.architecture, context.slot[0], self.tensors, convert)(h, context)
        return y


class _Buffers:
    """Conversion to a dtype on the CPU, into memory that the next layer uses again, which is much faster."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._buffers: dict[tuple[str, torch.Size], Tensor] = {}

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.dtype == self._dtype and tensor.device.type == "cpu":
            return tensor
        buffer = self._buffers.get((name, tensor.shape))
        if buffer is None:
            buffer = self._buffers[name, tensor.shape] = torch.empty(tensor.shape, dtype=self._dtype)
        return buffer.copy_(tensor)


def make_block(architecture: Architecture, index: int, tensors: LazyTensors, convert: Convert) -> Block:
    """Read one layer out of a model's tensors; missing ones stay on the meta device.

    Args:
        architecture: of the model.
        index: of the layer.
        tensors: of the model, by their names in it.
        convert: (name in the layer, tensor) -> the tensor in the dtype and on the device of the computation.
    """
    with torch.device("meta"):
        block = Block(architecture.backbone, architecture.layers[index])
    prefix = f"layers.{index}."
    state = {
        name.removeprefix(prefix): convert(name.removeprefix(prefix), tensor.read())
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    block.load_state_dict(state, strict=False, assign=True)
    return block.eval()


def in_float32(device: torch.device) -> Convert:
    """Return a conversion for `make_block`."""
    return lambda _, tensor: tensor.to(device, torch.float32)


def main_dtype(tensors: LazyTensors) -> torch.dtype:
    """Return the dtype of most elements, in which the checkpoint is loaded."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.meta().numel()
    return sizes.most_common(1)[0][0]
