"""Whether and how a run compiles its blocks, and where the machine keeps the code."""

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

# Tokens of a run on CUDA from which `auto` compiles. On an H100 dense models of 30 M parameters gain 0.025 us
# a token, HDPL 0.03, Gaussian-kernel attention 0.14, Gated DeltaNet nothing (steps recorded, batches of
# 32,768). Four kinds of blocks cost some 8 s each if the cache has none of them (an estimate), else 0.5 s.
CUDA_TOKENS = 1_000_000_000


def pays(compile: str, device: torch.device, tokens: int) -> bool:
    """Whether a run of so many tokens compiles.

    On a CPU `auto` never does: a training step of `tiny` became 3 to 5 % faster, and each kind of block cost
    25 to 40 s once (one core, torch 2.13), the time of 500 steps. (Most of a step are matrix products that
    run at 95 % of the core's peak either way.)
    """
    if compile == "auto":
        return device.type == "cuda" and tokens >= CUDA_TOKENS
    return compile == "max"


def check_compile(compile: str, device: torch.device) -> None:
    """Raises:
    UserError: not a way to compile, or no compiler here.
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
    """Later processes find what this one compiles in a folder of the user's cache. Once torch's compiler is
    loaded this is too late: it takes a folder below /tmp, which the machine's next start may empty."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(data_home().parent / "compiled"))


@cache
def compiled_blocks(compile: str) -> CompiledBlocks:
    """One for all runs of this process, so that trials share code."""
    return CompiledBlocks("max-autotune-no-cudagraphs" if compile == "max" else None)
