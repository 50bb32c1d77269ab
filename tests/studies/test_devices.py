"""Devices: a process's peak memory is its own, and of the run that is charged with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from studies.devices import peak_memory, reset_peak_memory

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="this system has no peak that can be reset"
)


def test_memory_is_of_this_run() -> None:
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    ballast = np.ones(200_000_000 // 8)
    assert peak_memory(CPU) > before + 150_000_000
    del ballast
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < before + 50_000_000


def test_memory_is_not_of_the_process_that_started_this_one() -> None:
    ballast = np.ones(1_000_000_000 // 8)  # more than the child has with all it imports
    code = "import torch; from studies.devices import peak_memory; print(peak_memory(torch.device('cpu')))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(told) < ballast.nbytes < peak_memory(CPU)
