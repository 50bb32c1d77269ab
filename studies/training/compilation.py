"""Compilation of a run's blocks: the decision, the compiler's mode and the code cache."""

from __future__ import annotations

import os
import shutil
from functools import cache
from typing import Literal, get_args

import torch

from studies.files.home import data_home
from surgery.compiled import CompiledBlocks
from surgery.config.problems import Problem, UserError, nearest

Compile = Literal["off", "auto", "max"]

# Tokens of a run on CUDA from which `auto` compiles. On an H100 dense models of 30 M parameters gain
# 0.025 us/token, HDPL 0.03, Gaussian-kernel attention 0.14, Gated DeltaNet nothing (captured steps, batches
# of 32,768). Each of four kinds of blocks costs about 8 s with a cold cache (an estimate), else 0.5 s.
CUDA_TOKENS = 1_000_000_000


def pays(compile: str, device: torch.device, tokens: int) -> bool:
    """Return whether a run of `tokens` tokens compiles its blocks.

    `auto` never compiles on a CPU: a training step of `tiny` became 3 to 5 % faster, and each kind of block
    cost 25 to 40 s once (one core, torch 2.13), the time of 500 steps. (Most of a step is matrix products,
    which reach 95 % of the core's peak either way.)
    """
    if compile == "auto":
        return device.type == "cuda" and tokens >= CUDA_TOKENS
    return compile == "max"


def check_compile(compile: str, device: torch.device) -> None:
    """Check that `compile` names a mode and that this machine has a compiler for it.

    Raises:
        UserError: an unknown mode, or no compiler.
    """
    if compile not in get_args(Compile):
        rule = f"must be one of {', '.join(get_args(Compile))}"
        raise UserError(
            "can't compile", [Problem("compile", compile, rule, nearest(compile, get_args(Compile)))]
        )
    compiler = os.environ.get("CXX", "g++")
    if compile == "max" and device.type == "cpu" and shutil.which(compiler) is None:
        rule = f"needs the C++ compiler {compiler}, which is not here"
        raise UserError("can't compile", [Problem("compile", compile, rule, "install it, or set CXX")])


def keep_code() -> None:
    """Keep compiled code in the user's cache folder, for later processes.

    Call this before torch's compiler is loaded, which otherwise chooses a folder below /tmp that the next
    boot may empty.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(data_home().parent / "compiled"))


@cache
def compiled_blocks(compile: str) -> CompiledBlocks:
    """Return the compiled blocks that all runs of this process share."""
    return CompiledBlocks("max-autotune-no-cudagraphs" if compile == "max" else None)
