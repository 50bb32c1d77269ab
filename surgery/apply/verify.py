"""Verification of a written model: a fresh process loads it, and its numbers are compared with our own.

Neither process holds the model: here its layers are read one after the other, from where they came, and the
fresh process maps the written files into memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import surgery
from surgery.config.backbone import Backbone
from surgery.config.problems import Problem, UserError
from surgery.hf.lazy import LazyModel, main_dtype

TOLERANCE = 1e-4  # relative to the largest logit (or 1): allows another order of summation
SMALL = 250 * 10**6  # parameters of a model that the fresh process converts to float32 as a whole
TIMEOUT_SECONDS = 3600
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class _Effort:
    """Number and length of the prompts, and the tokens to generate from each."""

    prompts: int
    length: int
    new_tokens: int


_OF_SMALL, _OF_LARGE = _Effort(2, 32, 64), _Effort(1, 8, 2)


@dataclass(frozen=True)
class Verification:
    """Result of loading a model in a fresh process.

    Attributes:
        dtype: precision of the computations.
        max_logit_difference: between the reloaded model and the planned one, over all prompt positions.
        max_logit: largest absolute logit of the planned model.
        new_tokens: tokens that are generated greedily with a cache.
        equal_tokens: how many of them are also the most likely ones without a cache, up to the first that is
            not; the fewest of all prompts.
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
        """True if logits and tokens agree."""
        limit = TOLERANCE * max(1.0, self.max_logit)
        return self.max_logit_difference <= limit and self.equal_tokens == self.new_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        return {**asdict(self), "passed": self.passed}


def verify(
    folder: Path, model: LazyModel, *, prompts: Tensor | None = None, remote_code: bool = False
) -> Verification:
    """Load `folder` in a fresh process and compare it with `model`. Arguments and errors as in `Verifier`."""
    with Verifier(folder, remote_code=remote_code) as verifier:
        return verifier.verify(model, prompts=prompts)


class Verifier:
    """A fresh process that loads the model of a folder, and is started before that model is written.

    A context: at its end the process is gone, and so is what it left in the folder. Inside it this process
    leaves one thread to it, which needs seconds for its imports. It computes last, with all threads.
    """

    def __init__(self, folder: Path, *, remote_code: bool = False) -> None:
        """Start the process.

        Args:
            folder: where the model is, or will be.
            remote_code: load as if this package were not installed: with transformers, and the source in the
                folder if the class is ours.
        """
        self.folder, self.remote_code = folder, remote_code
        # inside the folder, so that both are removed together if this process is killed
        self._scratch = tempfile.TemporaryDirectory(prefix=".verify-", dir=folder)
        self._threads = torch.get_num_threads()
        self._process = _start(self._scratch.name, remote_code, self._threads)

    def __enter__(self) -> Verifier:
        torch.set_num_threads(max(1, self._threads - 1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._threads)
        self._process.kill()
        self._process.communicate()
        self._scratch.cleanup()

    def verify(self, model: LazyModel, *, prompts: Tensor | None = None) -> Verification:
        """Compare the written model with `model`.

        Args:
            model: what was to be written.
            prompts: token ids (batch, tokens); by default fixed random ones.

        Raises:
            UserError: the folder can't be loaded, or gives different numbers.
        """
        backbone = model.architecture.backbone
        small = sum(prod(tensor.shape) for tensor in model.tensors.values()) <= SMALL
        effort = _OF_SMALL if small else _OF_LARGE
        prompts = _prompts(backbone, effort) if prompts is None else prompts
        new_tokens = max(1, min(effort.new_tokens, backbone.max_position_embeddings - prompts.shape[1]))
        stored, main = {tensor.dtype for tensor in model.tensors.values()}, main_dtype(model.tensors)
        loaded = main if not small and main in _HALF and stored <= {main, torch.float32} else torch.float32
        scratch = Path(self._scratch.name)
        save_file({"prompts": prompts.contiguous()}, scratch / "prompts.safetensors")
        ours = model.logits(prompts, torch.float32)
        self._tell({
            "folder": str(self.folder.absolute()),
            "dtype": str(loaded).removeprefix("torch."),
            "by_layer": not small,
            "new_tokens": new_tokens,
        })  # fmt: skip
        answer = self._answer()
        theirs = load_file(scratch / "logits.safetensors")["logits"]
        difference = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
        result = Verification(
            dtype="float32",
            max_logit_difference=difference,
            max_logit=float(ours.abs().max()),
            new_tokens=new_tokens,
            remote_code=self.remote_code,
            **answer,
        )
        if not result.passed:
            rule = (
                f"logits differ by {difference:.3g} in {result.dtype}, generation with and without cache "
                f"agrees on {result.equal_tokens} of {result.new_tokens} tokens"
            )
            raise UserError("the written model is not the planned one", [Problem("verification", None, rule)])
        return result

    def _tell(self, job: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead, which `_answer` reports
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        """Wait for the process's end and return its answer."""
        try:
            output, errors = self._process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            problem = Problem("verification", None, f"took more than {TIMEOUT_SECONDS} seconds")
            raise UserError("the written model can't be verified", [problem]) from error
        if self._process.returncode != 0:
            lines = errors.strip().splitlines()
            reason = lines[-1] if lines else f"exit code {self._process.returncode}"
            problem = Problem("verification", None, reason)
            raise UserError("the written model can't be loaded in a fresh process", [problem])
        answer: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return answer


def _prompts(backbone: Backbone, effort: _Effort) -> Tensor:
    length = max(1, min(effort.length, backbone.max_position_embeddings // 2))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(backbone.vocab_size, (effort.prompts, length), generator=generator)


def _start(scratch: str, remote_code: bool, threads: int) -> subprocess.Popen[str]:
    """Start `reload.py` in the folder `scratch`."""
    root = str(Path(surgery.__file__).resolve().parent.parent)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if remote_code:
        environment["HF_MODULES_CACHE"] = str(Path(scratch, "modules"))
        environment["PYTHONPATH"] = ""
    else:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    settings = {"remote_code": remote_code, "threads": threads}
    return subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("reload.py")), json.dumps(settings)],
        cwd=scratch,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
