"""The CPU cores of this process, and how many workers they can have. Loads no torch."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from surgery.config.problems import Problem, UserError

MOST_WORKERS, MOST_PER_CORE = 64, 8

CGROUPS = Path("/sys/fs/cgroup")  # Linux control groups, version 2
PROC_CGROUP = Path("/proc/self/cgroup")


def check_workers(workers: int, option: str = "--workers") -> None:
    """Refuse more processes than a machine can start.

    Raises:
        UserError: beyond `MOST_PER_CORE` per core, and beyond `MOST_WORKERS`.
    """
    most = max(MOST_WORKERS, MOST_PER_CORE * cores())
    if workers > most:
        rule = f"at most {most} on this machine, which has {cores()} cores"
        raise UserError("too many workers", [Problem(option, workers, rule, "one per core or GPU")])


def cores() -> int:
    """Return the CPU cores that this process may use: its affinity, limited by its container's quota."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        allowed = os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota())))


def _quota() -> float:
    """Return the CPU quota of this process's control groups, in cores; infinite without a limit."""
    with suppress(OSError, ValueError, IndexError):
        group = PROC_CGROUP.read_text(encoding="utf-8").partition("0::/")[2].partition("\n")[0]
        folder = CGROUPS / group
        limits = [at / "cpu.max" for at in (folder, *folder.parents) if at.is_relative_to(CGROUPS)]
        words = [path.read_text(encoding="ascii").split() for path in limits if path.is_file()]
        return min((int(most) / int(period) for most, period in words if most != "max"), default=math.inf)
    return math.inf
