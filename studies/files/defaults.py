"""Defaults of options, for the command line and for Python; loads nothing, so that `nas --help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

DEFAULT_RUNS = Path("runs")  # folder that holds the studies
DEFAULT_TRIALS = 50  # trained architectures of a study
DEFAULT_EACH = 5  # runs of one architecture, its first counted; what is undecided then is called a tie
DEFAULT_SAMPLER: Literal["gain"] = "gain"
DEFAULT_STOPPING: Literal["forecast"] = "forecast"
DEFAULT_CPU_PRECISION = "float32"  # of matrix products on a CPU; on CUDA it is always bfloat16
