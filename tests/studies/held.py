"""Processes whose trainings wait half-way: a test acts there, however slow or busy the machine is.

`python -m tests.studies.held MODULE ARGS...` is `python -m MODULE ARGS...`; workers that it or the test's own
process starts are held too. A training waits from its second step on while the folder named in HOLD has a
file `from-N` and its trial's number is at least N. It says so in a file named after its process; Ctrl-C
reaches it as any training.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

HOLD = "NAS_TEST_HOLD"
ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.02
HELD = ("nas_cli.main", "studies.workers")  # modules that are run with -m


class Hold:
    """The test's side: from which trial on workers wait, and which do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, first: int = 0) -> None:
        """Hold every training of a trial with at least this number."""
        self.release()
        (self.folder / f"from-{first}").touch()

    def release(self) -> None:
        for path in self.folder.glob("from-*"):
            path.unlink()

    def waiting(self) -> dict[int, int]:
        """Return process id -> trial of each training that waits."""
        result = {}
        for path in self.folder.glob("at-*"):
            with suppress(FileNotFoundError, ValueError):
                result[int(path.name.removeprefix("at-"))] = int(path.read_text())
        return result

    def includes(self, number: int) -> bool:
        return any(number >= int(path.name.removeprefix("from-")) for path in self.folder.glob("from-*"))


def wait_until(condition: Callable[[], object]) -> None:
    """Waits as long as it takes: only the limit of a whole test ends what never happens."""
    while not condition():
        time.sleep(POLL_SECONDS)


def start_held_workers() -> None:
    """Every `nas` and every worker that this process starts from now on is held."""
    start = subprocess.Popen

    def popen(command: Any, *args: Any, **options: Any) -> Any:
        if isinstance(command, list):
            pairs = (("tests.studies.held", word) if word in HELD else (word,) for word in command)
            command = [word for pair in pairs for word in pair]
        return start(command, *args, **options)

    subprocess.Popen = popen  # type: ignore[assignment, misc]


def hold_trainings(hold: Hold) -> None:
    """Every training of this process's workers waits for the hold."""
    import studies.workers.worker
    from studies.training.loop import Progress, TrainResult

    real = studies.workers.worker.train

    def train(*args: Any, **options: Any) -> TrainResult:
        number = int(Path(options["curve"]).parent.name)
        on_step, should_stop = options.pop("on_step"), options["should_stop"]
        mark = hold.folder / f"at-{os.getpid()}"

        def held(progress: Progress) -> None:
            on_step(progress)
            if progress.step < 2:
                return
            while hold.includes(number) and not should_stop():
                if not mark.exists():
                    mark.with_suffix(".new").write_text(str(number))
                    mark.with_suffix(".new").replace(mark)
                time.sleep(POLL_SECONDS)
            mark.unlink(missing_ok=True)

        return real(*args, on_step=held, **options)

    studies.workers.worker.train = train


if __name__ == "__main__":
    hold_trainings(Hold(Path(os.environ[HOLD])))
    start_held_workers()
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
