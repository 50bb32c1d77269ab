"""Runs commands in forks of this process, and judges what they did."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

LIMIT_S = 30  # of a CPU: a busy machine takes longer, and that is no fault of the command
HANG_S = 300.0  # for what only waits
MEMORY = 6 * 2**30  # bytes beyond what this process has mapped
CODES = (0, 1, 2, 3, 130)
BUG = "this is a bug in nas"
PRELOADED = (
    "torch", "torch._dynamo", "transformers", "optuna", "tokenizers", "safetensors.torch", "pyarrow.parquet",
    "studies.study.study", "studies.workers.worker", "studies.training.pretrain",
    "studies.evaluation.generation", "studies.evaluation.evaluation",
    "studies.audit.report", "studies.healing.healer", "studies.reporting.front_plot",
    "studies.analysis.importances", "surgery.apply.pipeline",
    "nas_cli.main",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The end of a command. `faults` is empty if it did as it should."""

    code: int
    seconds: float
    output: str
    faults: tuple[str, ...]


def preload() -> None:
    """Import what commands import, and set the environment that they run in."""
    os.environ.update(
        HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", COLUMNS="100",
        TRANSFORMERS_VERBOSITY="error", NO_COLOR="1", HF_HUB_DISABLE_PROGRESS_BARS="1",
    )  # fmt: skip
    os.environ.pop("NAS_TRACEBACK", None)
    for name in PRELOADED:
        import_module(name)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM
    assert AutoTokenizer
    torch.set_num_threads(1)
    commands = import_module("nas_cli.main").COMMANDS
    for name in commands:
        import_module(f"nas_cli.commands.{name}")


def in_fork(work: Callable[[], object]) -> int:
    """Return the exit code of a child that runs `work`; its threads and locks are its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_case(argv: tuple[str, ...], folder: Path, work: Path) -> Outcome:
    """Run `nas ARGV` in `work`; the output goes to `folder`."""
    before = snapshot(work)
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(argv, folder, work)
    status = _wait(child, started + HANG_S)
    seconds = time.monotonic() - started
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it started, such as workers, ends with it
    output = (folder / "output.txt").read_text(encoding="utf-8", errors="backslashreplace")
    code = -signal.SIGALRM if status is None else os.waitstatus_to_exitcode(status)
    faults = []
    if code in (-signal.SIGALRM, -signal.SIGXCPU):
        faults.append("late")
    elif code not in CODES:
        faults.append("crash")
    if "Traceback (most recent call last)" in output or BUG in output:
        faults.append("traceback")
    if code in (1, 2) and (made := changed(before, snapshot(work))):
        faults.append("partial output")
        output += f"\n[left behind: {', '.join(made[:5])}]"
    return Outcome(code, seconds, output, tuple(faults))


def _become(argv: tuple[str, ...], folder: Path, work: Path) -> None:
    """Turn this child into the command. Never returns."""
    code = 70
    try:
        os.setsid()
        os.chdir(work)
        home = folder / "home"
        os.environ.update(HOME=str(home), NAS_HOME=str(home / "nas"), TMPDIR=str(home), PWD=str(work))
        with open(os.devnull, "rb") as nothing, open(folder / "output.txt", "wb") as out:
            os.dup2(nothing.fileno(), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        for name, number in (("stdout", 1), ("stderr", 2)):
            errors = "strict" if name == "stdout" else "backslashreplace"
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", errors=errors, closefd=False))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 5))  # of this child, from 0
        sys.argv = ["nas", *argv]
        from nas_cli import main

        try:
            main.run()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:  # as the interpreter does
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(child: int, until: float) -> int | None:
    """Return the child's status, None if it had to be killed."""
    pause = 0.002
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(pause)
        pause = min(0.05, pause * 1.3)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def snapshot(folder: Path) -> dict[str, str]:
    """Return every path below with what it holds."""
    result = {}
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            relative = os.fsdecode(os.fsencode(path.relative_to(folder)))
            regular = path.is_file() and not path.is_symlink()
            result[relative] = hashlib.sha256(path.read_bytes()).hexdigest() if regular else "-"
    return result


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the paths that are new, gone, or different."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
