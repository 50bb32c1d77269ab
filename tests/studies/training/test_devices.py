"""Devices: memory is charged to the run that took it, threads are counted against cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from studies.training import cores, devices
from studies.training.devices import crowding, peak_memory, reset_peak_memory

CPU = torch.device("cpu")


def peaks_can_be_reset() -> bool:
    """Return whether this system counts peaks, and lets a process reset them."""

    def peak() -> str:
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line for line in lines if line.startswith("VmHWM:"))

    try:
        ballast = np.ones(200_000_000 // 8)
        high = peak()
        del ballast
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return peak() != high
    except (OSError, StopIteration):
        return False


resettable = pytest.mark.skipif(not peaks_can_be_reset(), reason="this system has no peak that can be reset")


@resettable
def test_memory_is_of_this_run() -> None:
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    ballast = np.ones(200_000_000 // 8)
    assert peak_memory(CPU) > before + 150_000_000
    del ballast
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < before + 50_000_000


@resettable
def test_memory_is_not_of_the_process_that_started_this_one() -> None:
    ballast = np.ones(1_000_000_000 // 8)  # more than the child has with all it imports
    code = (
        "import torch; from studies.training.devices import peak_memory\n"
        "print(peak_memory(torch.device('cpu')))"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(text) < ballast.nbytes < peak_memory(CPU)


@pytest.mark.parametrize(
    ("workers", "threads", "device", "warns"),
    [
        (2, 2, "cpu", True),
        (4, 2, "cpu", True),
        (2, 1, "cpu", False),
        (1, 8, "cpu", False),
        (4, 2, "cuda", False),
    ],
)
def test_more_threads_than_cores(
    workers: int, threads: int, device: str, warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cores", lambda: 2)
    result = crowding(workers, threads, torch.device(device))
    assert [f"{workers} workers of {threads} threads each on 2 cores" in line for line in result] == [
        True
    ] * warns


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cores_are_those_this_process_may_use() -> None:
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code = one + "from studies.training.cores import cores; print(cores())"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(text) == 1


@pytest.mark.parametrize(
    ("group", "limits", "want"),
    [
        ("/", {"": "200000 100000"}, 2),  # as a container sees itself
        ("/", {"": "max 100000"}, 8),
        ("/", {"": "50000 100000"}, 1),
        ("/", {"": "250000 100000"}, 3),
        ("/a/b", {"a": "300000 100000", "a/b": "max 100000"}, 3),  # a limit of a group above
        ("/a/b", {"a": "300000 100000", "a/b": "100000 50000"}, 2),
        ("/", {"": "6400000 100000"}, 8),
        ("/", {"": "nonsense"}, 8),
        ("/", {}, 8),
        (None, {"": "200000 100000"}, 8),
    ],
)
def test_cores_of_a_container(
    group: str | None, limits: dict[str, str], want: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(cores, "PROC_CGROUP", tmp_path / "cgroup")
    if group is not None:
        (tmp_path / "cgroup").write_text(f"1:name=systemd:/x\n0::{group}\n", encoding="utf-8")
    for name, text in limits.items():
        (tmp_path / "groups" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name / "cpu.max").write_text(text + "\n", encoding="ascii")
    assert cores.cores() == want
