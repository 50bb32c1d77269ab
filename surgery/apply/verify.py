"""Verification of a written model: it is loaded in a fresh process and compared with the one in memory."""

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
# relative to the largest logit (or 1): allows another order of summation, but not another weight
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
FLOAT32_LIMIT = 2 * 10**9  # parameters up to which the comparison is made in float32
TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class Verification:
    """Result of loading a model in a fresh process.

    Attributes:
        dtype: precision of the comparison.
        max_logit_difference: between the reloaded model and the one in memory, over all prompt positions.
        max_logit: largest absolute logit of the model in memory.
        new_tokens: greedily generated tokens.
        equal_tokens: length of their common prefix with and without cache.
        remote_code: whether the fresh process could not import this package: it had transformers, and the
            source in the folder if the class is ours.
        transformers, torch: versions in the fresh process.
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
        """True if logits and tokens agree; tokens may differ in half precision, which may break ties."""
        limit = TOLERANCE[self.dtype] * max(1.0, self.max_logit)
        same = self.equal_tokens == self.new_tokens or self.dtype in ("bfloat16", "float16")
        return self.max_logit_difference <= limit and same

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        return {**asdict(self), "passed": self.passed}


def verify(
    folder: Path, model: HybridLM, *, prompts: Tensor | None = None, remote_code: bool = False
) -> Verification:
    """Load `folder` in a fresh process and compare it with `model`.

    Args:
        folder: the written model.
        model: the model in memory.
        prompts: token ids (batch, tokens); by default fixed random ones.
        remote_code: load as if this package were not installed: with transformers, and the source in the
            folder if the class is ours.

    Raises:
        UserError: the folder can't be loaded, or gives different numbers.
    """
    prompts = _prompts(model) if prompts is None else prompts
    few = sum(tensor.numel() for tensor in model.parameters()) <= FLOAT32_LIMIT
    dtype = torch.float32 if few else model.embed.weight.dtype
    remaining = model.architecture.backbone.max_position_embeddings - prompts.shape[1]
    new_tokens, name = max(1, min(NEW_TOKENS, remaining)), str(dtype).removeprefix("torch.")
    job: dict[str, Any] = {
        "folder": str(folder),
        "dtype": name,
        "new_tokens": new_tokens,
        "remote_code": remote_code,
        "threads": torch.get_num_threads(),  # the order of summation depends on them
    }
    # inside the folder, so that both are removed together if this process is killed
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
    """Run `reload.py` in the folder `scratch` and return its answer."""
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
