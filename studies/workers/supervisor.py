"""Supervision of a study's local workers: start, restart, stop, and progress."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path

from studies.search.requeue import requeue_orphans
from studies.storage.addresses import STORAGE
from studies.storage.opening import explain_storage_errors
from studies.study import Study
from studies.study.leases import statuses
from studies.study.trial_record import TrialRecord, front_records
from studies.workers.progress import MEASURING, TRAINING, Snapshot

POLL_SECONDS = 0.5
RESPAWNS = 3  # restarts of dead workers per worker, counted together
STOPPED = 130  # exit code of a worker that was asked to stop
REFUSED = 2  # likewise, of one that can't work before the user fixes something
LOST = 3  # likewise, of one that lost its device
# before a lost worker is restarted: processes that share a GPU all lose it, and it serves new ones only once
# the last of them has ended
RECOVERY_SECONDS = 10.0
SUPERVISOR = "NAS_SUPERVISOR"  # environment variable: the process whose end also ends its workers
GRACE_SECONDS = 20.0  # between asking workers to stop and killing them


class Supervisor:
    """A supervisor that starts `workers` processes, restarts those that die, and stops all of them together.

    With `refine` they train replicates, at most so many runs per architecture, and `target` counts those.
    """

    def __init__(
        self, study: Study, *, workers: int, target: int | None, device: str = "auto",
        timeout: float | None = None, refine: int | None = None, lanes: int | None = 1,
    ) -> None:  # fmt: skip
        self.study, self.target, self.device, self.timeout = study, target, device, timeout
        self.refine, self.lanes = refine, lanes
        self.number = workers
        self.processes: list[subprocess.Popen[bytes]] = []
        self.respawned = 0
        self.lost: dict[int, float] = {}  # time of the loss by worker index
        self.started = time.monotonic()
        self.prepared: float | None = None  # seconds until the first training began
        self.trained_before = self._ended(study.records())
        self.timed_out = False

    def watch(self, on_stopping: Callable[[], None] = lambda: None) -> Generator[Snapshot, None, None]:
        """Start the workers and yield snapshots until all have ended. Leaving the loop early stops them.

        Args:
            on_stopping: called before workers that still run are stopped, which takes seconds.

        Raises:
            UserError: the study's folder or storage can't be used any more.
        """
        with explain_storage_errors(self.study.folder):
            try:
                with (self.study.folder / "workers.log").open("ab") as self.log:
                    self.processes = [self._spawn(index) for index in range(self.number)]
                    while self._restart_dead() or any(process.poll() is None for process in self.processes):
                        if not self._in_time():
                            break
                        yield self.snapshot()
                        time.sleep(POLL_SECONDS)
                    yield self.snapshot()
            finally:
                try:
                    if any(process.poll() is None for process in self.processes):
                        on_stopping()
                    self._stop()
                finally:
                    with self.study.exclusive():
                        requeue_orphans(self.study)
                    self.study.write_front()

    def snapshot(self) -> Snapshot:
        """Return the state of the study now."""
        records = self.study.records()
        workers = statuses(self.study.workers_folder)
        elapsed = time.monotonic() - self.started
        here = self._ended(records) - self.trained_before
        at_trials = any(worker.get("state") in (TRAINING, MEASURING) for worker in workers)
        if self.prepared is None and (here or at_trials):
            self.prepared = elapsed
        return Snapshot(
            records=records,
            front=front_records(records, self.study.space.objectives),
            workers=workers,
            elapsed=elapsed,
            target=self.target,
            trained_here=here,
            refining=self.refine is not None,
            prepared=elapsed if self.prepared is None else self.prepared,
        )

    def _ended(self, records: list[TrialRecord]) -> int:
        return sum(record.counted if self.refine is None else record.repeated for record in records)

    @property
    def failed(self) -> bool:
        """Return whether a worker ended with an error; being asked to stop is none."""
        return any(
            (process.returncode or 0) not in (0, STOPPED, -signal.SIGINT) for process in self.processes
        )

    @property
    def died(self) -> bool:
        """Return whether this search ended early: its workers were killed, failed, or stopped from outside.

        It did not end early if it reached the target or the time limit, or if a worker had nothing left to
        train.
        """
        reached = self.target is not None and self._ended(self.study.records()) >= self.target
        return not (reached or self.timed_out or any(process.returncode == 0 for process in self.processes))

    @property
    def refused(self) -> bool:
        """Return whether all workers ended with an error that the user can fix."""
        return all(process.returncode == REFUSED for process in self.processes)

    def last_output(self) -> str:
        """Return the last lines that the workers printed."""
        text = (self.study.folder / "workers.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.strip().splitlines()[-12:]) or "the workers printed nothing"

    def _spawn(self, index: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "studies.workers", str(Path(self.study.folder).resolve())]
        command += ["--device", worker_device(self.device, index)]
        if self.target is not None:
            command += ["--trials", str(self.target)]
        if self.refine is not None:
            command += ["--refine", str(self.refine)]
        if self.lanes is not None:
            command += ["--lanes", str(self.lanes)]
        # a session of its own: Ctrl-C reaches this process alone, which then asks the workers to stop
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.study.settings.threads),
            SUPERVISOR: str(os.getpid()),
        }
        environment.pop(STORAGE, None)
        if self.study.url is not None:  # not as an argument: arguments are visible to every user
            environment[STORAGE] = self.study.url
        return subprocess.Popen(
            command, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True, env=environment,
        )  # fmt: skip

    def _restart_dead(self) -> bool:
        """Restart workers that were killed or lost their device; return whether there was one."""
        any_dead = False
        for index, process in enumerate(self.processes):
            code = process.poll() or 0
            if not (code < 0 or code == LOST) or self.respawned >= RESPAWNS * self.number or self.timed_out:
                continue
            any_dead = True
            if code == LOST:
                ready = self.lost.setdefault(index, time.monotonic()) + RECOVERY_SECONDS
                if time.monotonic() < ready:
                    continue
                del self.lost[index]
            self.respawned += 1
            self.processes[index] = self._spawn(index)
        return any_dead

    def _in_time(self) -> bool:
        """Ask the workers to stop at the timeout; return False once their grace period is over too."""
        over = time.monotonic() - self.started - (self.timeout or math.inf)
        if over > 0 and not self.timed_out:
            self.timed_out = True
            self._signal(signal.SIGINT)
        return over < GRACE_SECONDS

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def _stop(self) -> None:
        """Ask the workers to stop, and kill those that take too long; on a second Ctrl-C all at once."""
        self._signal(signal.SIGINT)
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            for process in self.processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, deadline - time.monotonic()))
        finally:
            self._signal(signal.SIGKILL)
            for process in self.processes:
                process.wait()


def worker_device(device: str, index: int) -> str:
    """Return a worker's device: `cuda` and `auto` are distributed over the GPUs, others returned as is."""
    if device not in ("cuda", "auto"):
        return device
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{index % gpus}" if gpus else device
