"""Measured times of parts, and the latency of an architecture as their sum. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from surgery.architecture.architecture import Architecture
from surgery.architecture.timed_parts import TimedPart, timed_parts
from surgery.config.problems import Problem, UserError


@dataclass(frozen=True)
class BlockTime:
    """The time of a part.

    Attributes:
        nanoseconds: median over the repeats.
        spread: interquartile range of the repeats over their median.
        graph: whether it was replayed as a CUDA graph.
        label: of the part, for people who read the file.
    """

    nanoseconds: int
    spread: float
    graph: bool
    label: str

    def to_list(self) -> list[Any]:
        """Return plain JSON values, from which `of` makes an equal time."""
        return [self.nanoseconds, round(self.spread, 4), self.graph, self.label]

    @classmethod
    def of(cls, data: Any) -> BlockTime:
        """Read a time from plain values.

        Raises:
            ValueError: it is damaged.
        """
        nanoseconds, spread, graph, label = data
        if not isinstance(nanoseconds, int) or nanoseconds < 0:
            raise ValueError("is no time in whole nanoseconds")
        return cls(nanoseconds, float(spread), bool(graph), str(label))


def time_key(part: TimedPart, metric: str, length: int) -> str:
    """Return the name of a time in a table, such as `decode_ms@4096 mixer.5f0c94d1a2`.

    Parts that don't mix tokens decode in the same time after any number of them, and have one entry.
    """
    at = length if part.depends_on_context or metric != "decode_ms" else 1
    return f"{metric}@{at} {part.name}"


@dataclass(eq=False)
class BlockTimes:
    """A table of times, all of one device and its software.

    Attributes:
        machine: device, precision, threads, versions and batch size of all times.
        known: times by `time_key`.
        measure: called with (part, metric, length) where a time is missing; None: it can't be measured here.
    """

    machine: Mapping[str, str]
    known: dict[str, BlockTime] = field(default_factory=dict)
    measure: Callable[[TimedPart, str, int], BlockTime] | None = None

    def nanoseconds(self, architecture: Architecture, metric: str, length: int) -> int:
        """Return the latency of an architecture: the sum of the times of its parts.

        Args:
            architecture: the model.
            metric: `decode_ms` or `prefill_ms`.
            length: context or prompt in tokens.

        Raises:
            UserError: a part was not timed, and can't be timed here.
        """
        return sum(
            count * self.of(part, metric, length).nanoseconds for part, count in timed_parts(architecture)
        )

    def of(self, part: TimedPart, metric: str, length: int) -> BlockTime:
        """Return the time of a part, measured now if it is not known.

        Raises:
            UserError: it was not timed, and can't be timed here.
        """
        key = time_key(part, metric, length)
        if key not in self.known:
            if self.measure is None:
                raise untimed(f"{metric}@{length}", f"the block {part.label} was not timed")
            self.known[key] = self.measure(part, metric, length)
        return self.known[key]

    def covers(self, architecture: Architecture, metric: str, length: int) -> bool:
        """Return whether the latency of an architecture is known or can be measured here."""
        parts = (part for part, _ in timed_parts(architecture))
        return self.measure is not None or all(self.has(part, metric, length) for part in parts)

    def has(self, part: TimedPart, metric: str, length: int) -> bool:
        """Return whether the time of a part is known."""
        return time_key(part, metric, length) in self.known


def untimed(metric: str, why: str) -> UserError:
    """Return the error that a latency is asked for where blocks are not timed."""
    hint = "nas search times the blocks of its space, on its own device"
    return UserError("no measured latency", [Problem(metric, None, why, hint)])


def machine_text(machine: Mapping[str, str]) -> str:
    """Return what a user knows a machine by."""
    threads = f", threads {machine['threads']}" if "threads" in machine else ""
    return (
        f"{machine.get('device')}, {machine.get('dtype')}{threads}, batch {machine.get('batch')}, "
        f"torch {machine.get('torch')}, nas {machine.get('nas')}"
    )
