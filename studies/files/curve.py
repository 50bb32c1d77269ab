"""Loss curve of a training run, and a stopwatch for its training time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from surgery.config.json_source import parse_object
from surgery.config.problems import Problem, UserError
from surgery.files.atomic import replacing

CURVE_POINTS = 200  # most training points of a curve on disk


def log_steps(steps: int) -> frozenset[int]:
    """Return the steps that are written to the curve: evenly spaced, first and last included."""
    every = -(-steps // CURVE_POINTS)
    return frozenset((1, *range(every, steps + 1, every), steps))


class CurveWriter:
    """Writer of a loss curve as JSON lines, flushed one by one, so that a killed run keeps its points.

    A run that resumes after step `after` keeps the lines up to that step.
    """

    def __init__(self, path: Path | None, after: int = 0) -> None:
        if path is not None:
            kept = [point for point in read_curve(path) if point["step"] <= after]
            with replacing(path, durable=False) as temporary:
                temporary.write_text("".join(json.dumps(point) + "\n" for point in kept), encoding="utf-8")
        self.file = path.open("a", encoding="utf-8") if path is not None else None

    def write(self, **values: float) -> None:
        """Append a point."""
        if self.file is not None:
            self.file.write(json.dumps(values) + "\n")
            self.file.flush()

    def __enter__(self) -> CurveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file is not None:
            self.file.close()


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Return the points of a curve; none without a file. A truncated last line is ignored.

    Raises:
        UserError: a line is no point; names the file and line.
    """
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise _damaged(str(path), f"can't be read: {error}") from error
    if lines and not lines[-1].endswith("}"):
        del lines[-1]
    return [_read_point(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _read_point(line: str, where: str) -> dict[str, Any]:
    try:
        point = parse_object(line)
    except ValueError as error:
        raise _damaged(where, f"is no point of a loss curve: {error}") from error
    for name in ("step", "tokens"):
        if isinstance(point.get(name), bool) or not isinstance(point.get(name), int):
            raise _damaged(where, f"has no {name}")
    for name, value in point.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _damaged(where, f"holds {name}, which is no number")
    return point


def _damaged(where: str, rule: str) -> UserError:
    return UserError("a loss curve is damaged", [Problem("curve", where, rule, "fix or remove the line")])


class Stopwatch:
    """Seconds since construction without pauses, added to `before`."""

    def __init__(self, before: float = 0.0) -> None:
        self._before, self._since = before, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + time.perf_counter() - self._since

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the block."""
        self._before = self.seconds
        yield
        self._since = time.perf_counter()
