"""Runs a study's worker to the end, ending its process again and again at a chosen write to the storage.

python -m tests.studies.crashes FOLDER TARGET SIGNAL WRITES...

TARGET is a number of trained architectures, or of repeats with `repeats:` before it.

Each life is a fork of this process, which never trains, so that a life costs no imports. The n-th life gets
SIGNAL just after its WRITES[n]-th write (in turn); lives end when one reaches the target.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import cycle
from pathlib import Path

import torch._dynamo  # noqa: F401  what optimizers import at their first step: once here, not in every life

from studies.search import assignment as trials
from studies.search import requeue
from studies.search.refinement import take_repeat
from studies.storage.journal import JournalFile
from studies.study import Study
from studies.workers.worker import Take, work

MOST_LIVES = 200


def live(folder: Path, target: int, take_next: Take, number: signal.Signals, writes: int) -> None:
    """One life: ends as `nas worker` does, exit code 0 when the study is done, 130 when asked to stop."""
    append = JournalFile.append_logs
    left = writes

    def append_logs(self: JournalFile, logs: list[dict[str, object]]) -> None:
        nonlocal left
        append(self, logs)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)

    JournalFile.append_logs = append_logs  # type: ignore[method-assign]
    requeue.MOST_DEATHS = MOST_LIVES
    try:
        work(
            Study.open(str(folder.resolve())),
            target=target,
            device="cpu",
            log=lambda line: None,
            take_next=take_next,
        )
        os._exit(0)
    except KeyboardInterrupt:
        os._exit(130)


def main(folder: Path, target: int, take_next: Take, number: signal.Signals, writes: list[int]) -> int:
    """Returns the number of lives it took."""
    for life, count in zip(range(1, MOST_LIVES), cycle(writes), strict=False):
        child = os.fork()
        if child == 0:
            try:
                live(folder, target, take_next, number, count)
            finally:
                os._exit(1)  # never back into the parent's loop
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return life
        if code not in (130, -number):
            sys.exit(f"life {life} ended with {code}")
    sys.exit("the study does not get on")


if __name__ == "__main__":
    folder, wanted, name, *rest = sys.argv[1:]
    _, repeats, target = wanted.rpartition("repeats:")
    take_next: Take = take_repeat if repeats else trials.take
    writes = [int(text) for text in rest]
    print(main(Path(folder), int(target), take_next, signal.Signals[name], writes))
