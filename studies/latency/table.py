"""Tables of block times in the cache's home, one per machine, and timing what a table lacks.

Each block is timed once per machine: processes take turns, and a table is written after every block.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from studies.files.folder_lock import LOCK
from studies.files.home import latency_home
from studies.files.json_file import read_json, write_json
from studies.latency.machine import machine_of
from studies.latency.measure import Clock, measure_part, warm_up
from studies.latency.work import Setup
from studies.training.loop import Interrupted
from surgery.architecture.block_times import BlockTime, BlockTimes, time_key
from surgery.architecture.metrics import parse_metric
from surgery.architecture.timed_parts import TimedPart
from surgery.config.problems import Problem, UserError
from surgery.files.lock import Lock

POLL_SECONDS = 0.2  # between attempts to lock
STAGE = "timing blocks"

Progress = Callable[[str, int, int], None]  # (stage, done, total)
ShouldStop = Callable[[], bool]


class Table:
    """The times of a machine on disk."""

    def __init__(self, machine: Mapping[str, str]) -> None:
        """Describe the file; nothing is read or written yet."""
        text = json.dumps(dict(machine), sort_keys=True)
        self.machine = dict(machine)
        self.path = latency_home() / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    @contextmanager
    def lock(self, should_stop: ShouldStop) -> Iterator[None]:
        """Keep other processes from timing in this block, so that they don't disturb each other.

        Raises:
            Interrupted: `should_stop` returned True while another process held the lock.
            UserError: the folder can't be written.
        """
        lock = Lock(self.path.with_suffix(LOCK))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not lock.acquire(wait=False):
                if should_stop():
                    raise Interrupted
                time.sleep(POLL_SECONDS)
        except OSError as error:
            raise self._unusable(f"can't be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def read(self) -> dict[str, BlockTime]:
        """Return the times by their keys; none if there is no file yet.

        Raises:
            UserError: the file is damaged.
        """
        hint = "remove it: its blocks are timed again when they are needed"
        data = read_json(self.path, hint)
        if data is None:
            return {}
        try:
            return {key: BlockTime.of(value) for key, value in data["times"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._unusable("has no usable times", hint) from error

    def write(self, times: Mapping[str, BlockTime]) -> None:
        """Write all times.

        Raises:
            UserError: the folder can't be written.
        """
        data = {key: times[key].to_list() for key in sorted(times)}
        try:
            write_json(self.path, {"machine": self.machine, "times": data})
        except OSError as error:
            raise self._unusable(f"can't be written: {error.strerror or error}") from error

    def _unusable(self, rule: str, hint: str = "") -> UserError:
        return UserError("can't use the table of block times", [Problem("table", str(self.path), rule, hint)])


class BlockTimer:
    """Times the blocks that a table lacks."""

    def __init__(self, setup: Setup, clock: Clock | None = None) -> None:
        """Describe the machine as it is now: on a CPU the number of threads matters."""
        self.setup, self.clock = setup, clock
        self.machine = machine_of(setup)
        self.table = Table(self.machine)
        self._warm = False

    def fill(
        self,
        times: BlockTimes,
        parts: Iterable[TimedPart],
        metrics: Sequence[str],
        progress: Progress = lambda stage, done, total: None,
        should_stop: ShouldStop = lambda: False,
    ) -> list[str]:
        """Add the missing times of parts, from the table or timed now; return the keys of those added.

        Args:
            times: of this machine; extended.
            parts: equal ones are timed once.
            metrics: latencies such as `decode_ms@4096`.
            progress: called with (stage, done, total).
            should_stop: asked before every block.

        Raises:
            Interrupted: `should_stop` returned True; what was timed is kept in the table.
            UserError: the table can't be read or written.
        """
        parsed = [parse_metric(name) for name in metrics]
        wanted = {
            time_key(part, metric.name, length or 0): (part, metric.name, length or 0)
            for part in parts
            for metric, length in parsed
        }
        missing = [key for key in wanted if key not in times.known]
        if not missing:
            return []
        with self.table.lock(should_stop):
            stored = self.table.read()
            done = len(wanted) - len(missing)
            for key in missing:
                if key not in stored:
                    if should_stop():
                        raise Interrupted
                    progress(STAGE, done, len(wanted))
                    stored[key] = self._time(*wanted[key])
                    self.table.write(stored)
                times.known[key] = stored[key]
                done += 1
        progress(STAGE, done, len(wanted))
        return missing

    def _time(self, part: TimedPart, metric: str, length: int) -> BlockTime:
        if not self._warm:
            warm_up(self.setup.device)
            self._warm = True
        at = length if part.depends_on_context or metric != "decode_ms" else 1
        try:
            return measure_part(part, metric, at, self.setup, self.clock)
        except torch.OutOfMemoryError as error:
            rule = f"the block {part.label} does not fit into the device's memory"
            hint = "use a shorter context, or a smaller latency.batch"
            raise UserError(
                "can't time the blocks", [Problem(f"{metric}@{length}", None, rule, hint)]
            ) from error
