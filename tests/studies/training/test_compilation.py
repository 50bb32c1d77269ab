"""When a run compiles, where its code is kept, and that a study keeps to its way."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studies.study import Study
from studies.study.settings import StudySettings
from studies.training import compilation as compiling
from studies.training.compilation import CUDA_TOKENS, check_compile, compiled_blocks, pays
from studies.training.settings import TrainSettings
from studies.training.step import TrainStep
from surgery.config.problems import UserError
from surgery.model import HybridLM
from tests.models import architecture
from tests.studies.conftest import SPACE

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("compile", "device", "tokens", "does"),
    [
        ("auto", CPU, 10**12, False), ("auto", CUDA, CUDA_TOKENS - 1, False),
        ("auto", CUDA, CUDA_TOKENS, True), ("max", CPU, 1, True),
        ("max", CUDA, 1, True), ("off", CUDA, 10**12, False),
    ],
)  # fmt: skip
def test_when_it_pays(compile: str, device: torch.device, tokens: int, does: bool) -> None:
    assert pays(compile, device, tokens) is does


def test_trials_share_code_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is restored afterwards
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("NAS_HOME", str(tmp_path))
    compiled_blocks.cache_clear()
    settings = TrainSettings(tokens=100, seq_len=10, batch_tokens=20)
    models = [HybridLM(architecture()) for _ in range(3)]
    for model, compile in zip(models, ("max", "max", "off"), strict=True):
        TrainStep(model, replace(settings, compile=compile), CPU)
    assert models[0].run_block is models[1].run_block is compiled_blocks("max")
    assert models[2].run_block is not models[0].run_block
    assert compiling.os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
    compiled_blocks.cache_clear()


A_STEP = """
import torch
from studies.training.step import TrainStep
from studies.training.settings import TrainSettings
from surgery.model import HybridLM
from tests.models import architecture
settings = TrainSettings(tokens=64, seq_len=8, batch_tokens=8, compile="off")
train_step = TrainStep(HybridLM(architecture()).train(), settings, torch.device("cpu"))
rows = torch.randint(30, (1, 9))
train_step.step(1, rows[:, :-1], rows[:, 1:])
"""


@pytest.mark.parametrize(
    "before",
    [
        "from studies.training.devices import make_ready, pick_device\nmake_ready(pick_device('cpu'))\n",
        A_STEP,
    ],
    ids=["a worker", "a step"],
)
def test_code_is_kept_in_the_users_cache_whatever_loads_the_compiler(before: str, tmp_path: Path) -> None:
    """Once torch's compiler is loaded it has chosen a folder."""
    compiled = "import os\nfrom studies.training.compilation import compiled_blocks\ncompiled_blocks('max')\n"
    code = f"{before}{compiled}print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment["NAS_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "compiled")


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_compile("auto", CPU)
    with pytest.raises(UserError, match="needs the C\\+\\+ compiler no-such-compiler"):
        check_compile("max", CPU)
    with pytest.raises(UserError, match="must be one of off, auto, max"):
        check_compile("of", CPU)


def test_a_study_keeps_to_its_way(tmp_path: Path) -> None:
    from search_spaces import parse_space

    space = parse_space(SPACE)
    Study.create("one", space, StudySettings(compile="off"), tmp_path)
    assert Study.open("one", tmp_path).settings.compile == "off"
    with pytest.raises(UserError, match="off -> max"):
        Study.create_or_resume("one", space, StudySettings(compile="max"), tmp_path)
