"""Failures of the machine are one line each; unforeseen ones are called a bug."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
import typer

from nas_cli import main
from surgery.config.failures import describe_bug, explain


def os_error(number: int, name: str | None = "/data/x") -> OSError:
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (os_error(errno.EMFILE), "/data/x: Too many open files (raise the limit of this shell: ulimit -n", 1),
        (os_error(errno.ENOSPC, None), "No space left on device (free some space", 1),
        (os_error(errno.ENAMETOOLONG), "/data/x: File name too long (a name has at most 255 bytes)", 2),
        (os_error(errno.EACCES), "/data/x: Permission denied", 2),
        (os_error(errno.EIO), "/data/x: Input/output error", 1),
        (MemoryError(), "out of memory (free some memory", 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory: Def", 1),
        (RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"), "out of memory: Storage", 1),
        (RuntimeError("can't start new thread"), "can't start new thread (this machine allows no more", 1),
    ],
)  # fmt: skip
def test_failures_of_the_machine(error: BaseException, text: str, code: int) -> None:
    result = explain(error)
    assert result is not None
    line, given = result
    assert line.startswith(text)
    assert "\n" not in line
    assert given == code


def test_failures_of_torch_and_numpy_as_they_raise_them() -> None:
    import numpy as np
    import torch

    for work in (lambda: torch.empty(2**46), lambda: np.ones(2**46), lambda: torch.empty(2**40, 2**40)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            work()
        result = explain(caught.value)
        assert result is not None
        assert result[0].startswith("out of memory: ")


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("shapes differ"), OSError("of a library"), AssertionError()]
)
def test_anything_else_is_a_bug(error: Exception) -> None:
    assert explain(error) is None
    assert describe_bug(error).startswith(f"this is a bug in nas: {type(error).__name__}")


def run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    """The exit code of `nas` where a command raises `error`."""

    def fail() -> None:
        raise error

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(fail)
    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(main, "register", lambda: None)
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["nas"])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {1: [KeyError("x\ny"), MemoryError(), os_error(errno.EMFILE)], 2: [os_error(errno.ENOENT)]}
    for code, errors in cases.items():
        for error in errors:
            assert run(monkeypatch, error) == code
            text = capsys.readouterr().err
            assert text.count("\n") == 1
            assert text.startswith("error: ")


def test_tracebacks_are_shown_to_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_TRACEBACK", "1")
    for error in (KeyError("x"), MemoryError(), os_error(errno.ENOENT)):
        with pytest.raises(type(error)):
            run(monkeypatch, error)


def test_a_name_that_the_terminal_can_not_show(tmp_path: Path) -> None:
    import subprocess

    name = os.fsdecode(b"bad\xff.yaml")
    command = [sys.executable, "-m", "nas_cli.main", "space", "validate", name, "--json"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"\\udcff" in done.stdout
