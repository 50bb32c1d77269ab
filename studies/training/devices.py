"""Where a model trains: the device, its number format, its memory."""

from __future__ import annotations

import math
import os
import platform
import resource
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.training.compilation import keep_code
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.architecture.memory import describe_training, machine_memory, training_bytes
from surgery.config.problems import Problem, Problems, UserError
from surgery.config.quantities import format_bytes

MOST_WORKERS, MOST_PER_CORE = 64, 8


CGROUPS = Path("/sys/fs/cgroup")  # of Linux, version 2
PROC_CGROUP = Path("/proc/self/cgroup")


class DeviceLost(Exception):
    """A kernel went wrong, or one of another process beside it: this process can't use its GPU any more."""


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. A GPU becomes the current one of this process: kernels
    of Triton and recordings run on that, wherever their tensors are.

    Raises:
        UserError: the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        problem = Problem("device", name, "is not available here", f"available: {', '.join(here)}")
        raise UserError("can't use that device", [problem]) from error
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def device_memory(device: torch.device) -> int:
    """Return the bytes of memory that models on this device share."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()


def check_memory(models: Mapping[str, Architecture], device: torch.device) -> None:
    """Refuse models whose training would not fit, before any time is spent on them.

    Args:
        models: by the names that the user knows them by.

    Raises:
        UserError: weights, gradients and optimizer state of one of them need more than the device has.
    """
    memory = device_memory(device)
    problems = Problems()
    for name, architecture in models.items():
        params = cost(architecture, "params")
        if training_bytes(params) > memory:
            rule = f"{describe_training(params)}; {device} has {format_bytes(memory)}"
            problems.add(name, architecture.line, rule, "use a smaller one, or a larger device")
    problems.raise_if_any("not enough memory to train that")


def check_workers(workers: int, option: str = "--workers") -> None:
    """Refuse more processes than a machine can start.

    Raises:
        UserError: beyond `MOST_PER_CORE` per core, and beyond `MOST_WORKERS`.
    """
    most = max(MOST_WORKERS, MOST_PER_CORE * cores())
    if workers > most:
        rule = f"at most {most} on this machine, which has {cores()} cores"
        raise UserError("too many workers", [Problem(option, workers, rule, "one per core or GPU")])


def make_ready(device: torch.device) -> None:
    """What the first trial of a process would wait for: parts of PyTorch that an optimizer loads, and on CUDA
    the libraries of products."""
    keep_code()
    import_module("torch._dynamo")
    if device.type == "cuda":
        torch.mm(*(torch.zeros(16, 16, dtype=torch.bfloat16, device=device) for _ in range(2)))
        torch.cuda.synchronize(device)


def cores() -> int:
    """CPU cores that this process may use: those it may run on, at most as many as its container may fill."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        allowed = os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota())))


def _quota() -> float:
    """Return the cores' time that the control groups of this process may use; infinite without a limit."""
    with suppress(OSError, ValueError, IndexError):
        group = PROC_CGROUP.read_text(encoding="utf-8").partition("0::/")[2].partition("\n")[0]
        folder = CGROUPS / group
        limits = [at / "cpu.max" for at in (folder, *folder.parents) if at.is_relative_to(CGROUPS)]
        words = [path.read_text(encoding="ascii").split() for path in limits if path.is_file()]
        return min((int(most) / int(period) for most, period in words if most != "max"), default=math.inf)
    return math.inf


def crowding(workers: int, threads: int, device: torch.device) -> list[str]:
    """A warning if workers on a CPU have more threads than it has cores: they would wait for each other."""
    if device.type != "cpu" or workers == 1 or workers * threads <= cores():
        return []
    return [
        f"{workers} workers of {threads} threads each on {cores()} cores are slower than "
        f"{max(1, cores() // threads)}: a study keeps the --threads that it was started with"
    ]


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array there. On CUDA by way of pinned memory, so that the copy waits for nothing and nothing waits
    for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def autocast(device: torch.device, cpu_precision: str = "float32") -> AbstractContextManager[Any]:
    """bfloat16 matrix products on CUDA, and on a CPU if asked for; float32 elsewhere."""
    low = device.type == "cuda" or (device.type == "cpu" and cpu_precision == "bfloat16")
    return torch.autocast(device.type, dtype=torch.bfloat16) if low else nullcontext()


def reset_peak_memory(device: torch.device) -> None:
    """Starts a new peak, so that a run is not charged with what came before it in this process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Linux only; elsewhere the peak is the process's whole life
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int:
    """Bytes since the last reset: the allocator's peak on CUDA, the whole process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        # On Linux the kernel's own mark: getrusage's also counts what the process was before it became this
        # program, which is its parent's memory, and no reset takes that back.
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe(device: torch.device) -> dict[str, str]:
    """Device and versions, recorded with every result."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        "cores": str(cores()),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
