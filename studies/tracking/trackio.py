"""trackio: runs in a local database, or on a trackio server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from typing import Any

from studies.tracking.tracker import Value


class Trackio:
    """Runs of a project. Implements `Tracker`.

    The package keeps one folder per process: that of the first tracker that was opened.
    """

    def __init__(self, where: str, project: str) -> None:
        self._server = where if "://" in where else None
        if self._server is None:
            os.environ["TRACKIO_DIR"] = where  # read when the package is loaded
        import trackio
        import trackio.run
        import trackio.utils

        for module in (trackio, trackio.run, trackio.utils):
            module.__dict__["print"] = _silent  # it prints into the live view otherwise
        self._trackio, self._project = trackio, project
        self._open: list[TrackioRun] = []

    def start(self, name: str, settings: Mapping[str, Value]) -> TrackioRun:
        """Open a run, in a context of its own: in one context, the next run would end it."""
        run = copy_context().run(
            self._trackio.init, project=self._project, name=name, config=dict(settings), resume="allow",
            server_url=self._server, embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        opened = TrackioRun(self._trackio, run)
        self._open.append(opened)
        return opened

    def close(self) -> None:
        """Write what is left."""
        for run in self._open:
            run.end()


class TrackioRun:
    """One run. Implements `Run`."""

    def __init__(self, trackio: Any, run: Any) -> None:
        self._trackio, self._run, self._step = trackio, run, 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at a step."""
        self._step = step
        self._run.log(dict(values), step=step)

    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """Log a table."""
        import pandas

        self._run.log({name: self._trackio.Table(dataframe=pandas.DataFrame(rows))}, step=self._step)

    def finish(self, state: str, results: Mapping[str, float]) -> None:
        """Log the results as `result/NAME` and the state, and close the run."""
        named: dict[str, Value] = {f"result/{name}": value for name, value in results.items()}
        self._run.log({**named, "state": state}, step=self._step)
        self.end()

    def end(self) -> None:
        """Close the run, if it is open."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _silent(*values: object, **options: object) -> None:
    """Print nothing."""


def open_tracker(where: str, project: str, mark: str) -> Trackio:
    """Open a project in the folder, or on the server, `where`."""
    return Trackio(where, project)
