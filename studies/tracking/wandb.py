"""Weights & Biases: offline, for `wandb sync`, unless the environment has a key or a mode."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.tracking.tracker import Value


class WandB:
    """Runs of a project. Implements `Tracker`.

    It is online with WANDB_API_KEY, and as WANDB_MODE says; the other variables of W&B are respected.
    """

    def __init__(self, where: str, project: str, mark: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb = wandb
        self._folder, self._project, self._mark = Path(where), project, mark
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mode = os.environ.get("WANDB_MODE") or (
            "online" if "WANDB_API_KEY" in os.environ else "offline"
        )
        self._open: list[WandBRun] = []

    def start(self, name: str, settings: Mapping[str, Value]) -> WandBRun:
        """Open a run; its id follows from the names, so that it is the same one when opened again."""
        identity = hashlib.sha256(f"{self._mark} {self._project} {name}".encode()).hexdigest()[:16]
        run = WandBRun(
            self._wandb,
            self._wandb.init(
                project=self._project, group=self._project, name=name, id=identity, dir=str(self._folder),
                config=dict(settings), mode=self._mode, resume="allow", reinit="create_new",
                settings=self._wandb.Settings(
                    silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
                ),
            ),
        )  # fmt: skip
        self._open.append(run)
        return run

    def close(self) -> None:
        """Upload or write what is left."""
        for run in self._open:
            run.end()


class WandBRun:
    """One run. Implements `Run`."""

    def __init__(self, wandb: Any, run: Any) -> None:
        self._wandb, self._run = wandb, run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one row of the history."""
        self._run.log(dict(values), step=step)

    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """Log a table."""
        columns = list(rows[0]) if rows else []
        data = [list(row.values()) for row in rows]
        self._run.log({name: self._wandb.Table(columns=columns, data=data, allow_mixed_types=True)})

    def finish(self, state: str, results: Mapping[str, float]) -> None:
        """Put the results into the run's summary."""
        self._run.summary.update({**results, "state": state})
        self.end(failed=state == "failed")

    def end(self, *, failed: bool = False) -> None:
        """Close the run, if it is open."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run = None


def open_tracker(where: str, project: str, mark: str) -> WandB:
    """Open a project whose local files are in the folder `where`."""
    return WandB(where, project, mark)
