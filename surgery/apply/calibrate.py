"""Calibration: running text through the new model layer by layer while it is built."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from surgery.architecture import Architecture
from surgery.config.backbone import FFN_PROJECTIONS
from surgery.config.problems import Problem, UserError
from surgery.context import Context
from surgery.hf.tokenizer import load_tokenizer
from surgery.model import Block
from surgery.ops.rotary import rotary_tables

Calibration = Sequence[str] | Sequence[Tensor] | Sequence[Sequence[int]]

MAX_LENGTH = 2048  # tokens of a calibration sequence

# Projections of a layer in order of execution; those of one stage have the same input.
STAGES = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))


def as_tokens(
    calibration: Calibration | None, tokenizer_dir: str | os.PathLike[str], vocab_size: int, longest: int
) -> list[Tensor]:
    """Convert calibration texts or token ids to 1-D tensors of at most `longest` tokens, in the given order.

    Raises:
        UserError: there is no tokenizer for a text, ids are outside the vocabulary, or no text remains.
    """
    if calibration is None:
        return []
    items: Sequence[object] = list(calibration)
    if any(isinstance(item, str) for item in items):
        items = _encode([str(item) for item in items], tokenizer_dir)
    longest = min(longest, MAX_LENGTH)
    sequences: list[Tensor] = []
    for item in items:
        ids = torch.as_tensor(item, dtype=torch.long).flatten()
        sequences.extend(part for part in ids.split(longest) if len(part) > 1)
    if not sequences:
        raise UserError("can't calibrate", [Problem("calibration", None, "holds no text")])
    lowest, highest = min(int(ids.min()) for ids in sequences), max(int(ids.max()) for ids in sequences)
    if lowest < 0 or highest >= vocab_size:
        wrong = highest if highest >= vocab_size else lowest
        rule = f"is outside the model's vocabulary of {vocab_size}"
        raise UserError("can't calibrate", [Problem("calibration", f"token {wrong}", rule)])
    return sequences


def _encode(texts: list[str], tokenizer_dir: str | os.PathLike[str]) -> list[list[int]]:
    tokenizer = load_tokenizer(tokenizer_dir)
    return [list(tokenizer(text)["input_ids"]) for text in texts]


class Stream:
    """Hidden states of the calibration text at the input of the next layer, in float32.

    Each layer is fitted to the actual activations of the layers fitted before it, so that it compensates for
    their errors. For a looped model these are the activations of the first pass.
    """

    def __init__(
        self, architecture: Architecture, embedding: Tensor, sequences: Sequence[Tensor], device: torch.device
    ) -> None:
        self.architecture = architecture
        self.states = [embedding[ids].to(device, torch.float32)[None] for ids in sequences]

    @torch.inference_mode()
    def moments(self, block: Block, name: str) -> Tensor:
        """Return the mean of x x^T over tokens (d_in, d_in), x being the input of projection `name`."""
        total, count = torch.zeros(()), 0
        for x in self.inputs(block, name):
            total = x.T @ x + total.to(x.device)
            count += len(x)
        return (total / count).clone()

    @torch.no_grad()
    def mixer_inputs(self, block: Block) -> list[tuple[Tensor, Context]]:
        """Return the inputs of the next layer's mixer, each with its context."""
        seen: list[tuple[Tensor, Context]] = []

        def stop(_: nn.Module, inputs: tuple[Tensor, Context]) -> None:
            seen.append(inputs)
            raise _ReachedError

        assert block.mixer is not None, "only a mixer is transplanted"
        handle = block.mixer.register_forward_pre_hook(stop)
        try:
            for state in self.states:
                with suppress(_ReachedError):
                    block(state.clone(), self._context(state))  # a clone: not bound to inference mode
        finally:
            handle.remove()
        return seen

    @torch.inference_mode()
    def output_error(self, block: Block, name: str, weight: Tensor) -> float:
        """Return RMS of W x - f(x) over RMS of W x, f being projection `name` without its output bias."""
        part = module(block, name)
        bias = part.get_parameter("bias") if getattr(part, "bias", None) is not None else None
        error = size = 0.0
        for x in self.inputs(block, name):
            y = torch.nn.functional.linear(x, weight, bias)
            error += float((part(x) - y).square().sum())
            size += float((y if bias is None else y - bias).square().sum())
        return float((error / max(size, 1e-30)) ** 0.5)

    @torch.inference_mode()
    def inputs(self, block: Block, name: str) -> Iterator[Tensor]:
        """Yield the inputs (tokens, d_in) of a projection, sequence by sequence.

        The pass ends at the first projection with this input, since the others may not have weights yet.
        """
        seen: list[Tensor] = []
        stage = next(names for names in STAGES if name in names)
        siblings = [part for sibling in stage if (part := _find(block, sibling)) is not None]
        for state in self.states:
            handles = [sibling.register_forward_pre_hook(_stop_at(seen)) for sibling in siblings]
            try:
                block(state, self._context(state))
            except _ReachedError:
                pass
            finally:
                for handle in handles:
                    handle.remove()
            assert seen, f"nothing reaches {name}"
            yield seen.pop().flatten(0, -2)

    @torch.inference_mode()
    def advance(self, block: Block) -> None:
        """Run the states through a finished layer."""
        self.states = [block(state, self._context(state)) for state in self.states]

    def _context(self, state: Tensor) -> Context:
        positions = torch.arange(state.shape[1], device=state.device)[None]
        return Context(rotary_tables(self.architecture.backbone, positions))


def load(part: nn.Module, state: Mapping[str, Tensor], device: torch.device) -> None:
    """Set parameters of a module, in float32."""
    tensors = {name: tensor.to(device, torch.float32) for name, tensor in state.items()}
    part.load_state_dict(tensors, strict=False, assign=True)


def module(block: Block, name: str) -> nn.Module:
    """Return a projection of a block by its name."""
    part = _find(block, name)
    assert part is not None, name
    return part


def _find(block: Block, name: str) -> nn.Module | None:
    part: nn.Module | None = getattr(block.ffn if name in FFN_PROJECTIONS else block.mixer, name, None)
    return part


class _ReachedError(Exception):
    """Ends a forward pass at the observed module; later modules may not have weights yet."""


def _stop_at(seen: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise _ReachedError

    return hook
