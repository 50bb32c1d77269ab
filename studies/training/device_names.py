"""Names of devices, checked without loading torch, so that a wrong one is refused at once."""

from __future__ import annotations

import ctypes
import re
import sys
from contextlib import suppress
from pathlib import Path

from surgery.config.problems import Problem, UserError

_NAME = re.compile(r"auto|cpu|cuda(:\d{1,4})?")
_DRIVERS = ("libcuda.so.1", "libamdhip64.so")  # NVIDIA's, and AMD's, which torch calls cuda too
_AMD = Path("/dev/kfd")


def check_device_name(name: str) -> None:
    """Check the name of a device as far as that is possible without torch.

    Raises:
        UserError: it names no device, or a GPU where there is no driver for one.
    """
    if not _NAME.fullmatch(name):
        raise _refused(name, "must be auto, cpu, cuda or cuda:N")
    if name.startswith("cuda") and not has_gpu_driver():
        raise _refused(name, "is not available here", "available: cpu")


def has_gpu_driver() -> bool:
    """Return whether a GPU's driver can be loaded; True where that can't be known."""
    if not sys.platform.startswith("linux") or _AMD.exists():
        return True
    for library in _DRIVERS:
        with suppress(OSError):
            ctypes.CDLL(library)
            return True
    return False


def _refused(name: str, rule: str, hint: str = "") -> UserError:
    return UserError("can't use that device", [Problem("device", name, rule, hint)])
