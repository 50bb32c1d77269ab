"""Second moments of the activations that reach each projection, from a calibration text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from surgery.model import HybridLM
from surgery.problems import Problem, UserError

Place = tuple[int, str]  # (layer, projection)
Moments = dict[Place, Tensor]  # (d_in, d_in) float32, mean of x x^T over tokens
Calibration = Sequence[str] | Sequence[Tensor] | Sequence[Sequence[int]]
Progress = Callable[[str, int, int], None]  # (stage, done, total)

BUDGET_BYTES = 4 * 2**30  # of moments held at once; more layers take more passes over the text
MAX_LENGTH = 2048  # tokens of a calibration sequence


def as_tokens(
    calibration: Calibration | None, tokenizer_dir: str | os.PathLike[str], vocab_size: int, longest: int
) -> list[Tensor]:
    """Calibration texts or token ids as 1-D tensors of at most `longest` tokens, in the order given.

    Raises:
        UserError: no tokenizer for a text, ids that the vocabulary lacks, or nothing left.
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
    highest = max(int(ids.max()) for ids in sequences)
    if highest >= vocab_size or min(int(ids.min()) for ids in sequences) < 0:
        rule = f"is outside the model's vocabulary of {vocab_size}"
        raise UserError("can't calibrate", [Problem("calibration", f"token {highest}", rule)])
    return sequences


def _encode(texts: list[str], tokenizer_dir: str | os.PathLike[str]) -> list[list[int]]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    except Exception as error:  # transformers raises many kinds for a folder without a usable tokenizer
        reason = str(error).strip().split("\n", 1)[0][:160]
        problem = Problem(
            "tokenizer", str(tokenizer_dir), f"can't be loaded: {reason}", "give token ids instead"
        )
        raise UserError("can't calibrate", [problem]) from error
    return [list(tokenizer(text)["input_ids"]) for text in texts]


def collect(
    model: HybridLM, sequences: Sequence[Tensor], places: Iterable[Place], progress: Progress | None = None
) -> Iterator[Moments]:
    """Moments of the inputs of `places` in a dense model, layers in order, as many at once as fit the budget.

    In a looped model every pass counts.
    """
    groups = list(_groups(model, list(places)))
    total = len(groups) * len(sequences)
    for number, group in enumerate(groups):
        collector = _Collector()
        handles = [_module(model, place).register_forward_pre_hook(collector.hook(place)) for place in group]
        try:
            with torch.inference_mode():
                for done, ids in enumerate(sequences):
                    model(ids[None].to(model.embed.weight.device))
                    if progress is not None:
                        progress("calibrating", number * len(sequences) + done + 1, total)
        finally:
            for handle in handles:
                handle.remove()
        yield collector.means()


class _Collector:
    """Sums of x x^T; projections of a layer that read the same tensor share one sum."""

    def __init__(self) -> None:
        self.sums: Moments = {}
        self.counts: dict[Place, int] = {}
        self.latest: dict[int, tuple[Tensor, Place]] = {}

    def hook(self, place: Place) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
        def add(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            seen = self.latest.get(place[0])
            if seen is not None and seen[0] is x:
                self.sums[place] = self.sums[seen[1]]
                self.counts[place] = self.counts[seen[1]]
                return
            flat = x.flatten(0, -2).float()
            product = flat.T @ flat
            if place in self.sums:
                self.sums[place] += product
            else:
                self.sums[place] = product
            self.counts[place] = self.counts.get(place, 0) + len(flat)
            self.latest[place[0]] = (x, place)

        return add

    def means(self) -> Moments:
        self.latest.clear()
        shared: dict[int, Tensor] = {}
        for place, total in self.sums.items():
            if id(total) not in shared:
                shared[id(total)] = total / self.counts[place]
        return {place: shared[id(total)] for place, total in self.sums.items()}


def _module(model: HybridLM, place: Place) -> torch.nn.Module:
    layer, name = place
    block = model.layers[layer]
    part = "ffn" if name in ("gate", "up", "down") else "mixer"
    return block.get_submodule(f"{part}.{name}")


def _groups(model: HybridLM, places: list[Place]) -> Iterator[list[Place]]:
    """Places in consecutive groups whose moments fit the budget, none shared being the worst case."""
    group: list[Place] = []
    used = 0
    for layer in sorted({place[0] for place in places}):
        of_layer = [place for place in places if place[0] == layer]
        items = model.architecture.layers[layer].projections
        size = sum(4 * items[name].d_in ** 2 for _, name in of_layer)
        if group and used + size > BUDGET_BYTES:
            yield group
            group, used = [], 0
        group += of_layer
        used += size
    if group:
        yield group
