"""Run a command and print its time and the most memory that it and its child processes had together.

    python examples/peak_memory.py nas apply windows.yaml TinyLlama -o out

Reads /proc, so on Linux only, every 50 ms: a shorter peak may be missed. Pages that several processes share
count once for each of them. `resident` holds pages of mapped files too, which the system takes back when it
needs memory; `anonymous` is what it can't take back.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

INTERVAL = 0.05  # s
FIELDS = {"Rss:": "resident", "Anonymous:": "anonymous"}


def with_children(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def memory(process: int) -> dict[str, int]:
    """Return the kinds of memory of a process, in bytes."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    rows = (line.split() for line in lines)
    return {FIELDS[row[0]]: 1024 * int(row[1]) for row in rows if row[0] in FIELDS}


def main(command: list[str]) -> int:
    """Run the command, print the figures to stderr, and return its exit code."""
    most = dict.fromkeys(FIELDS.values(), 0)
    began = time.monotonic()
    with subprocess.Popen(command) as running:
        while running.poll() is None:
            each = [memory(process) for process in with_children(running.pid)]
            for kind, before in most.items():
                most[kind] = max(before, sum(one.get(kind, 0) for one in each))
            time.sleep(INTERVAL)
    peaks = ", ".join(f"{kind} {size / 1e9:.2f} GB" for kind, size in most.items())
    print(f"{time.monotonic() - began:.1f} s, at most {peaks}", file=sys.stderr)
    return running.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
