"""The device that a model trains on: its choice, precision and memory."""

from __future__ import annotations

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

from studies.files.defaults import DEFAULT_CPU_PRECISION
from studies.training.compilation import keep_code
from studies.training.cores import cores
from studies.training.lanes import current_lane
from surgery.architecture import Architecture
from surgery.architecture.memory import describe_training, machine_memory, training_bytes
from surgery.config.problems import Problem, Problems, UserError
from surgery.config.quantities import format_bytes


class DeviceLost(Exception):
    """A kernel of this or another process failed, and this process can no longer use its GPU."""


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of that name; `auto` is CUDA if available, else the CPU.

    A GPU becomes the current device of this process, since Triton kernels and captured graphs run on the
    current device, wherever their tensors are.

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


def check_memory(models: Mapping[str, Architecture], device: torch.device, optimizer: str = "adamw") -> None:
    """Refuse models whose training would not fit, before any time is spent on them.

    Args:
        models: by the names that the user knows them by.
        device: where they would be trained.
        optimizer: `adamw` or `muon`.

    Raises:
        UserError: weights, gradients and optimizer state of one of them need more than the device has.
    """
    memory = device_memory(device)
    problems = Problems()
    for name, architecture in models.items():
        if training_bytes(architecture, optimizer) > memory:
            rule = f"{describe_training(architecture, optimizer)}; {device} has {format_bytes(memory)}"
            problems.add(name, architecture.line, rule, "use a smaller one, or a larger device")
    problems.raise_if_any("not enough memory to train that")


def make_ready(device: torch.device) -> None:
    """Load in advance what the first trial would wait for: the parts of PyTorch that an optimizer imports,
    and on CUDA the matrix-product libraries."""
    keep_code()
    import_module("torch._dynamo")
    if device.type == "cuda":
        torch.mm(*(torch.zeros(16, 16, dtype=torch.bfloat16, device=device) for _ in range(2)))
        torch.cuda.synchronize(device)


def crowding(workers: int, threads: int, device: torch.device) -> list[str]:
    """Return a warning if the workers on a CPU have more threads than it has cores; else no warning."""
    if device.type != "cpu" or workers == 1 or workers * threads <= cores():
        return []
    return [
        f"{workers} workers of {threads} threads each on {cores()} cores are slower than "
        f"{max(1, cores() // threads)}: a study keeps the --threads that it was started with"
    ]


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a device; to CUDA through pinned memory, so that the copy is asynchronous."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def autocast(device: torch.device, cpu_precision: str = DEFAULT_CPU_PRECISION) -> AbstractContextManager[Any]:
    """Return a context with bfloat16 matrix products on CUDA, and on a CPU if asked for; else float32."""
    low = device.type == "cuda" or (device.type == "cpu" and cpu_precision == "bfloat16")
    return torch.autocast(device.type, dtype=torch.bfloat16) if low else nullcontext()


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak memory, so that earlier runs of this process do not count."""
    if (lane := current_lane()) is not None:
        lane.reset_peak()
        return
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Linux only; elsewhere the peak is the process's whole life
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes since the last reset: of the allocator on CUDA, of the process on a CPU.

    In a lane on CUDA it is the lane's own.
    """
    if device.type == "cuda" and (lane := current_lane()) is not None:
        return lane.peak
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        # On Linux the kernel's high-water mark: getrusage also counts the process before exec, which is its
        # parent's memory, and cannot be reset.
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe(device: torch.device) -> dict[str, str]:
    """Return the device and versions that are stored with every result."""
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
