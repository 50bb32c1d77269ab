"""`nas search` and `nas refine` whose workers end: real processes that end at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import studies.workers.supervisor
from studies.workers.supervisor import Supervisor
from tests.nas_cli.conftest import MICRO

KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies.workers.supervisor, "RESPAWNS", 0)
    monkeypatch.setattr(studies.workers.supervisor, "POLL_SECONDS", 0.02)


def workers_run(monkeypatch: pytest.MonkeyPatch, *codes: str) -> None:
    def spawn(supervisor: Supervisor, index: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-S", "-c", codes[index]], stdout=supervisor.log)

    monkeypatch.setattr(Supervisor, "_spawn", spawn)


@pytest.mark.parametrize(
    ("codes", "exit_code", "message"),
    [
        ((KILLED,), 1, "the workers ended before the work was done"),
        (("print('no memory', flush=True); raise SystemExit(1)",), 1, "no memory"),
        (("raise SystemExit(3)",), 1, "the workers ended before"),  # its device was lost
        (("raise SystemExit(130)",), 1, "the workers ended before"),  # stopped from outside
        (("print('fix me', flush=True); raise SystemExit(2)",), 2, "fix me"),
        ((KILLED, "raise SystemExit(2)"), 1, "the workers ended before"),
        (("raise SystemExit(0)",), 0, "architectures short"),  # nothing more to train
        ((KILLED, "raise SystemExit(0)"), 0, "architectures short"),
    ],
)
def test_search(
    nas: Callable[..., Result], tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch,
    codes: tuple[str, ...], exit_code: int, message: str,
) -> None:  # fmt: skip
    workers_run(monkeypatch, *codes)
    (tmp_path / "micro.yaml").write_text(MICRO.replace("corpus: builtin", f"corpus: {prepared}"))
    result = nas(
        "search", tmp_path / "micro.yaml", "--dir", tmp_path / "runs", "--workers", len(codes),
        "--threads", 1, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == exit_code, result.output
    assert message in result.output + str(result.exception)


def test_refine(
    nas: Callable[..., Result], tmp_path: Path, study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers_run(monkeypatch, KILLED)
    folder = Path(shutil.copytree(study_folder, tmp_path / "runs" / "micro"))
    for words in (("refine", folder, "--device", "cpu"), ("refine", folder, "--device", "cpu", "--runs", 2)):
        result = nas(*words)
        assert result.exit_code == 1, result.output
        assert "the workers ended before the work was done" in result.output
