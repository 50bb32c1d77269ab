"""Broken inputs get an answer; and the fuzz sees what it looks for."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nas_cli import main
from tests.conftest import ROOT
from tests.fuzz import mutations, runner
from tests.fuzz.inputs import ARCHITECTURE, SPACE


def fuzz(count: int, keep: Path) -> str:
    command = [sys.executable, "-m", "tests.fuzz", str(count), "--seed", "0", "--keep", str(keep)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_few_broken_inputs_of_every_kind(tmp_path: Path) -> None:
    table = fuzz(32, tmp_path / "kept")
    assert table.splitlines()[-1].split()[:2] == ["all", "32"]
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
@pytest.mark.timeout(20_000)
def test_1500_broken_inputs(tmp_path: Path) -> None:
    fuzz(1500, tmp_path / "kept")


def _write_and_refuse() -> None:
    Path("half").write_text("written")
    sys.exit(2)


def _change_and_refuse() -> None:
    Path("input").write_text("changed")
    sys.exit(1)


def _fail() -> None:
    raise KeyError("x")


def _report_a_bug() -> None:
    print("error: this is a bug in nas: KeyError", file=sys.stderr)
    sys.exit(1)


def _never_end() -> None:
    while True:
        pass


def _leave_a_child() -> None:
    if os.fork() == 0:
        time.sleep(600)
    sys.exit(0)


@pytest.mark.parametrize(
    ("command", "faults"),
    [
        (lambda: sys.exit(2), ()),
        (lambda: Path("whole").write_text("written"), ()),
        (_leave_a_child, ()),
        (_write_and_refuse, ("partial output",)),
        (_change_and_refuse, ("partial output",)),
        (_fail, ("traceback",)),
        (_report_a_bug, ("traceback",)),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), ("crash",)),
        (lambda: time.sleep(1e6), ("late",)),
        (_never_end, ("late",)),
    ],
)
def test_what_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[], object], faults: tuple[str, ...]
) -> None:
    monkeypatch.setattr(main, "run", command)
    monkeypatch.setattr(runner, "LIMIT_S", 60 if command is not _never_end else 1)
    monkeypatch.setattr(runner, "HANG_S", 1e6 if "late" not in faults or command is _never_end else 0.5)
    work = tmp_path / "work"
    work.mkdir()
    (work / "input").write_text("as given")
    assert runner.run_case(("space", "list"), tmp_path, work).faults == faults


def test_a_case_is_decided_by_its_seed_and_number() -> None:
    texts = {"space": SPACE.encode(), "architecture": ARCHITECTURE.encode()}
    for text in texts.values():
        result = [mutations.mutate_yaml(text, random.Random(f"0:{number}")) for number in range(50)]
        again = [mutations.mutate_yaml(text, random.Random(f"0:{number}")) for number in range(50)]
        assert result == again
        assert len(set(result)) > 40
