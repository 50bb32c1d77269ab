"""The lanes of a worker: how many there are, what one of them may do to the others, and how they end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from search_spaces import SearchSpace
from studies.training.lanes import Lanes
from studies.workers.signals import Stop
from surgery.config.problems import Problem, UserError

MOST = 8  # lanes of `auto`
UNMEASURED = 4  # of these, lanes that are added as soon as one trains, since so many pay on any large GPU
POLL_SECONDS = 0.25
# A step asks for the interpreter's lock some ten times, and would each time wait for so long while another
# lane builds a model or chooses an architecture. Python's own 5 ms would make its step forty times slower.
SWITCH_SECONDS = 1e-4
WINDOW_SECONDS = 2.0  # of one measurement of speeds
WORTH = 1.05  # a lane more has to bring so much
ROOM = 2.0  # free memory before a lane more, in mean bytes of the present ones
SHARED = ("peak_memory", "train_tokens_per_s")  # metrics that other lanes change

Speeds = dict[int, tuple[int, float]]  # (trial, tokens/s) by lane
Watch = Callable[[int, int], None]  # told trial and tokens so far, about as often as a curve has points


def most_lanes(space: SearchSpace, device: torch.device, asked: int | None) -> int:
    """Return how many lanes a worker may have.

    Args:
        asked: by the user; None: as many as pay, which is one on a CPU, for budgets of time, and where
            speed or memory are searched.

    Raises:
        UserError: more than one is asked for where designs of a pretrained model are measured.
    """
    if asked is not None:
        if asked > 1 and space.model is not None:
            rule = "must be 1 in a search over a pretrained model, whose designs are measured one by one"
            raise UserError("no lanes here", [Problem("--lanes", asked, rule)])
        return asked
    used = {item.name for item in space.objectives} | {item.name for item in space.constraints}
    alone = space.model is not None or space.proxy.seconds is not None or used & set(SHARED)
    return 1 if device.type != "cuda" or alone else MOST


@dataclass
class _Pace:
    """The points that a lane has told of its training."""

    trial: int = -1
    points: list[tuple[float, int]] = field(default_factory=list)  # time, tokens of the trial

    def tell(self, trial: int, tokens: int) -> None:
        if trial != self.trial or (self.points and tokens < self.points[-1][1]):
            self.trial, self.points = trial, []
        self.points.append((time.monotonic(), tokens))

    def speed(self) -> tuple[int, float] | None:
        """Return the trial and its tokens/s over the last window; None if it is too young."""
        points, now = list(self.points), time.monotonic()
        window = [point for point in points if point[0] >= now - WINDOW_SECONDS]
        if len(window) < 3 or points[0][0] > now - WINDOW_SECONDS:
            return None
        (start, before), (end, after) = window[0], window[-1]
        return (self.trial, (after - before) / (end - start)) if end > start else None


class Crew:
    """Lanes that work on one study, each in a thread; one that fails ends the others."""

    def __init__(self, device: torch.device, most: int, *, adaptive: bool, stop: Stop) -> None:
        """Prepare up to `most` lanes.

        Args:
            adaptive: begin with one, and add lanes while there is memory and all together become faster.
            stop: the worker's stop request, which ends all lanes.
        """
        self.device, self.most, self.adaptive, self.stop = device, most, adaptive, stop
        self.lanes = Lanes(device)
        self.threads: list[threading.Thread] = []
        self.paces: list[_Pace] = []
        self.reasons: list[str] = []
        self.errors: list[BaseException] = []
        self._before: Speeds = {}  # before the newest lane started

    def work(self, lane: Callable[[Watch], str]) -> str:
        """Run `lane` in every lane until all have ended, and return the last reason.

        Raises:
            KeyboardInterrupt: asked to stop.
            Exception: the first that ended a lane.
        """
        sys.setswitchinterval(SWITCH_SECONDS)
        self._add(lane)
        while not self.adaptive and len(self.threads) < self.most:
            self._add(lane)
        try:
            while any(thread.is_alive() for thread in self.threads):
                time.sleep(POLL_SECONDS)
                if self.adaptive and not self.reasons and not self.errors and self._pays():
                    self._add(lane)
        except KeyboardInterrupt:  # a second signal: the lanes end with the process
            self.stop.asked.set()
            raise
        for thread in self.threads:
            thread.join()
        real = [error for error in self.errors if not isinstance(error, KeyboardInterrupt)]
        if real or self.errors:
            raise (real or self.errors)[0]
        return self.reasons[-1]

    def _add(self, lane: Callable[[Watch], str]) -> None:
        self._before = self._speeds()
        pace = _Pace()

        def run() -> None:
            try:
                with self.lanes.lane():
                    self.reasons.append(lane(pace.tell))
            except BaseException as error:
                self.errors.append(error)
                self.stop.asked.set()

        self.paces.append(pace)
        thread = threading.Thread(target=run, name=f"lane-{len(self.threads)}", daemon=True)
        self.threads.append(thread)
        thread.start()

    def _pays(self) -> bool:
        """Return whether to add a lane now; the crew stops growing once the newest has not paid."""
        count = len(self.paces)
        if count < UNMEASURED:
            return bool(self.paces[0].points) and self._has_room()  # the first lane's memory is known
        speeds = self._speeds()
        if count - 1 not in speeds:
            return False  # the newest has not settled
        if count >= self.most or (count > UNMEASURED and not paid(self._before, speeds, count)):
            self.adaptive = False
        return self.adaptive and self._has_room()

    def _speeds(self) -> Speeds:
        return {index: speed for index, pace in enumerate(self.paces) if (speed := pace.speed()) is not None}

    def _has_room(self) -> bool:
        """Return whether one more lane fits into memory, as large as the mean of the present ones."""
        free, _ = torch.cuda.mem_get_info(self.device)
        used = torch.cuda.memory_allocated(self.device)
        free += torch.cuda.memory_reserved(self.device) - used
        return free > ROOM * used / len(self.paces)


def paid(before: Speeds, now: Speeds, count: int) -> bool:
    """Return whether the newest of `count` lanes makes all together faster.

    Architectures differ in speed, so that a sum over all lanes says little. What a lane costs the others
    shows in trials that ran before it came and still run: if these keep a share `k` of their speed, `count`
    lanes do `k * count / (count - 1)` times the work of one lane less.

    Args:
        before: speeds before the newest came.
        now: speeds now.
        count: lanes, the newest included.
    """
    same = [lane for lane, (trial, _) in before.items() if lane in now and now[lane][0] == trial]
    if not same:
        return True  # nothing is known; the next one will tell
    kept = sum(now[lane][1] for lane in same) / sum(before[lane][1] for lane in same)
    return kept * count / (count - 1) >= WORTH
