"""Whether a CPU's matrix products are of float32 or of bfloat16: whichever is the faster, by measurement.
On CUDA they are of bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Literal

import torch

from studies.descent import Descent
from studies.recipe import TrainSettings
from surgery.architecture import Architecture
from surgery.model import HybridLM

Precision = Literal["float32", "bfloat16"]

CPU = torch.device("cpu")
WORTH = 0.9  # of float32's time that bfloat16 may take: what saves less is not worth its rounding
TOKENS = 2048  # of a step that is timed, at most, but at least a sequence
ROUNDS = 3


def faster(architecture: Architecture, settings: TrainSettings, threads: int) -> Precision:
    """Training steps of both decide; where even a product of bfloat16 is no faster, as on CPUs without units
    for it, that alone does."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            quick = _worth(_products(architecture.backbone.dim)) and _worth(_steps(architecture, settings))
    finally:
        torch.set_num_threads(before)
    return "bfloat16" if quick else "float32"


def _worth(work: dict[Precision, Callable[[], object]]) -> bool:
    """Whether bfloat16 does it so much faster, both in turns."""
    times: dict[Precision, list[float]] = {name: [] for name in work}
    for turn in range(ROUNDS + 1):
        for name, run in work.items():
            start = perf_counter()
            run()
            if turn:  # the first warms up
                times[name].append(perf_counter() - start)
    return median(times["bfloat16"]) < WORTH * median(times["float32"])


def _products(dim: int) -> dict[Precision, Callable[[], object]]:
    def product(dtype: torch.dtype) -> Callable[[], object]:
        left, right = (torch.randn(rows, dim, dtype=dtype) for rows in (TOKENS, 4 * dim))
        return lambda: left @ right.t()

    return {"float32": product(torch.float32), "bfloat16": product(torch.bfloat16)}


def _steps(architecture: Architecture, settings: TrainSettings) -> dict[Precision, Callable[[], object]]:
    length = settings.seq_len
    count = max(1, min(settings.batch_tokens, TOKENS) // length)
    rows = torch.randint(architecture.backbone.vocab_size, (count, length + 1))

    def step(precision: Precision) -> Callable[[], object]:
        recipe = replace(settings, compile="off", cpu_precision=precision)
        descent = Descent(HybridLM(architecture).train(), recipe, CPU)
        return lambda: descent.step(1, rows[:, :-1], rows[:, 1:])

    return {"float32": step("float32"), "bfloat16": step("bfloat16")}
