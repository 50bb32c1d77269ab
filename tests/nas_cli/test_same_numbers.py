"""The same command computes the same numbers: nothing that is measured decides them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from nas_cli import main
from tests.nas_cli.conftest import MICRO

Nas = Callable[..., Result]
POLICY, BLOCKTIME = "OMP_WAIT_POLICY", "KMP_BLOCKTIME"


@pytest.fixture
def search(study_folder: Path, prepared: Path, nas: Nas, tmp_path: Path) -> Callable[..., Result]:
    """Resumes the finished study of the micro space."""
    (tmp_path / "micro.yaml").write_text(MICRO, encoding="utf-8")

    def run(*options: str) -> Result:
        return nas(
            "search", tmp_path / "micro.yaml", "--dir", study_folder.parent, "--data", prepared, "--sampler",
            "random", "--device", "cpu", *options,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--threads", "3", "threads: 1 -> 3"),
        ("--threads", "2", "threads: 1 -> 2"),
        ("--cpu-precision", "bfloat16", "cpu_precision: float32 -> bfloat16"),
    ],
)
def test_a_study_refuses_others(option: str, value: str, message: str, search: Callable[..., Result]) -> None:
    result = search(option, value)
    assert result.exit_code == 2
    assert [problem.rule for problem in result.exception.problems] == [message.partition(": ")[2]]  # type: ignore[union-attr]
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("option", "value"), [("--cpu-precision", "auto"), ("--threads", "0"), ("--threads", "two")]
)
def test_what_they_can_not_be(option: str, value: str, search: Callable[..., Result]) -> None:
    result = search(option, value)
    assert result.exit_code == 2
    assert option in result.output


def test_training_twice_is_the_same(
    architecture_file: Path, prepared: Path, nas: Nas, tmp_path: Path
) -> None:
    """Bit for bit, in the environment's threads or those asked for, and in another format only if asked."""
    losses, threads = {}, {}
    for name, options in {
        "default": (), "again": (), "asked": ("--threads", "1"), "format": ("--cpu-precision", "bfloat16"),
        "two": ("--threads", "2"),
    }.items():  # fmt: skip
        result = nas(
            "train", architecture_file, "-o", tmp_path / name, "--data", prepared, "--tokens", "2048",
            "--seq-len", "32", "--batch-tokens", "512", "--eval-tokens", "512", "--device", "cpu", "--json",
            *options,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        losses[name] = (tmp_path / name / "model.safetensors").read_bytes()
        threads[name] = torch.get_num_threads()
    assert threads == {"default": 1, "again": 1, "asked": 1, "format": 1, "two": 2}
    assert losses["default"] == losses["again"] == losses["asked"] != losses["format"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, ("PASSIVE", "0")),
        ({BLOCKTIME: "200"}, ("PASSIVE", "200")),
        ({POLICY: "ACTIVE"}, ("ACTIVE", None)),
        ({POLICY: "PASSIVE"}, ("PASSIVE", None)),
    ],
)
def test_waiting_threads_sleep_unless_asked(
    before: dict[str, str], after: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (POLICY, BLOCKTIME):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    main._sleep_while_waiting()
    assert (os.environ.get(POLICY), os.environ.get(BLOCKTIME)) == after
