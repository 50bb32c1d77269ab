"""Standard output without the lines that HiGHS leaves there.

HiGHS 1.12, which SciPy 1.17 brings along, prints "HighsMipSolverData::transformNewIntegerFeasibleSolution"
now and then, whatever its options say. That would break JSON on standard output. The lines come from C, so
that the file descriptor is turned away, not `sys.stdout`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STDOUT = 1
_lock = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Discard what is written to file descriptor 1 meanwhile, by other threads too."""
    with _lock:
        with suppress(AttributeError, OSError, ValueError):
            sys.stdout.flush()
        try:
            kept = os.dup(STDOUT)
        except OSError:  # closed, so that nothing can be written to it
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), STDOUT)
            yield
        finally:
            with suppress(OSError, AttributeError):
                ctypes.CDLL(None).fflush(None)  # C's own buffer, while it still goes nowhere
            os.dup2(kept, STDOUT)
            os.close(kept)
