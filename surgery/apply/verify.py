"""Proof that a written model is the one in memory: loaded in a fresh process, compared, generated from."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import surgery
from surgery.config.problems import Problem, UserError
from surgery.model import HybridLM

PROMPTS, LENGTH, NEW_TOKENS = 2, 32, 64
# of the largest logit (or of 1): room for another order of summation, none for another weight
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
FLOAT32_LIMIT = 2 * 10**9  # parameters up to which the comparison is made in float32
TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class Verification:
    """What a fresh process found.

    Attributes:
        dtype: the precision the comparison was made in.
        max_logit_difference: over all positions of the prompts, reloaded against in memory.
        max_logit: the largest logit in memory, by absolute value.
        new_tokens, equal_tokens: greedy tokens, and how many cached and uncached agree on from the first.
        remote_code: whether the fresh process used the source in the folder instead of this package.
    """

    dtype: str
    max_logit_difference: float
    max_logit: float
    new_tokens: int
    equal_tokens: int
    remote_code: bool
    transformers: str
    torch: str

    @property
    def passed(self) -> bool:
        """Logits agree; and so do the tokens, in float32: half precision may break a tie differently."""
        limit = TOLERANCE[self.dtype] * max(1.0, self.max_logit)
        same = self.equal_tokens == self.new_tokens or self.dtype in ("bfloat16", "float16")
        return self.max_logit_difference <= limit and same

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def verify(
    folder: Path, model: HybridLM, *, prompts: Tensor | None = None, remote_code: bool = False
) -> Verification:
    """Loads `folder` in a fresh process and compares it with `model`.

    Args:
        prompts: token ids (batch, tokens); by default fixed random ones.
        remote_code: load by the source in the folder, as where this package is not installed.

    Raises:
        UserError: the folder can't be loaded or does not give the same numbers.
    """
    prompts = _prompts(model) if prompts is None else prompts
    few = sum(tensor.numel() for tensor in model.parameters()) <= FLOAT32_LIMIT
    dtype = torch.float32 if few else model.embed.weight.dtype
    room = model.architecture.backbone.max_position_embeddings - prompts.shape[1]
    new_tokens, name = max(1, min(NEW_TOKENS, room)), str(dtype).removeprefix("torch.")
    job: dict[str, Any] = {
        "folder": str(folder),
        "dtype": name,
        "new_tokens": new_tokens,
        "remote_code": remote_code,
        "threads": torch.get_num_threads(),  # the order of summation depends on them
    }
    # in the folder: if this process is killed, both are cleared up together
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=folder) as scratch:
        save_file({"prompts": prompts.contiguous()}, Path(scratch, "prompts.safetensors"))
        answer = _in_fresh_process(job, scratch)
        theirs = load_file(Path(scratch, "logits.safetensors"))["logits"]
    ours = _logits(model, prompts, dtype)
    difference = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
    result = Verification(
        dtype=name,
        max_logit_difference=difference,
        max_logit=float(ours.abs().max()),
        new_tokens=new_tokens,
        remote_code=remote_code,
        **answer,
    )
    if not result.passed:
        rule = (
            f"logits differ by {difference:.3g} in {result.dtype}, cached and uncached generation agree on "
            f"{result.equal_tokens} of {result.new_tokens} tokens"
        )
        raise UserError("the written model is not the one in memory", [Problem("verification", None, rule)])
    return result


def _prompts(model: HybridLM) -> Tensor:
    backbone = model.architecture.backbone
    length = max(1, min(LENGTH, backbone.max_position_embeddings // 2))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(backbone.vocab_size, (PROMPTS, length), generator=generator)


def _logits(model: HybridLM, prompts: Tensor, dtype: torch.dtype) -> Tensor:
    kinds = {tensor.dtype for tensor in model.parameters()}
    if kinds != {dtype} or model.training:
        model = copy.deepcopy(model).to(dtype).eval()
    with torch.inference_mode():
        logits: Tensor = model.head(model(prompts.to(model.embed.weight.device))).float().cpu()
    return logits


def _in_fresh_process(job: dict[str, Any], scratch: str) -> dict[str, Any]:
    """Runs `reload.py` away from the current folder. Returns its answer."""
    root = str(Path(surgery.__file__).resolve().parent.parent)
    script = Path(__file__).with_name("reload.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if job["remote_code"]:
        environment["HF_MODULES_CACHE"] = str(Path(scratch, "modules"))
        environment["PYTHONPATH"] = ""
    else:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", str(script), json.dumps(job)]
    try:
        done = subprocess.run(
            command,
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        problem = Problem("verification", None, f"took more than {TIMEOUT_SECONDS} seconds")
        raise UserError("the written model can't be verified", [problem]) from error
    if done.returncode != 0:
        reason = (
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        )
        raise UserError(
            "the written model can't be loaded in a fresh process", [Problem("verification", None, reason)]
        )
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
