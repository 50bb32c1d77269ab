"""MLflow: an experiment for each project, in a local database or on a server."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.tracking.tracker import Value

NAME = "nas.run"  # tag by which a run is found again
_UNFIT = re.compile(r"[^\w./ -]")  # characters that names of MLflow can't have
_STATUS = {"failed": "FAILED", "paused": "KILLED"}  # others are FINISHED
LONGEST = 500  # characters of a parameter


class MLflow:
    """Runs of an experiment. Implements `Tracker`."""

    def __init__(self, where: str, project: str, mark: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # else a wrong address takes minutes
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # they log every table of a new database
            logging.getLogger(name).setLevel(logging.WARNING)
        artifacts = None
        if "://" not in where:
            folder = Path(where)
            folder.mkdir(parents=True, exist_ok=True)
            where, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self._client = MlflowClient(tracking_uri=where)
        experiment = self._client.get_experiment_by_name(project)
        if experiment is None:
            self._experiment = self._client.create_experiment(project, artifact_location=artifacts)
        else:
            self._experiment = experiment.experiment_id
        self._mark = mark

    def start(self, name: str, settings: Mapping[str, Value]) -> MLflowRun:
        """Open a run, the one with its tag if there is one."""
        tag = f"{self._mark} {name}"
        known = self._client.search_runs([self._experiment], f"tags.`{NAME}` = '{tag}'", max_results=1)
        if known:
            identity = known[0].info.run_id
            self._client.update_run(identity, status="RUNNING")
        else:
            run = self._client.create_run(self._experiment, run_name=name, tags={NAME: tag})
            identity = run.info.run_id
        return MLflowRun(self._client, identity, settings)

    def close(self) -> None:
        """Do nothing: everything is written at once."""


class MLflowRun:
    """One run. Implements `Run`."""

    def __init__(self, client: Any, identity: str, settings: Mapping[str, Value]) -> None:
        from mlflow.entities import Param

        self._client, self._identity, self._step = client, identity, 0
        known = client.get_run(identity).data.params
        wanted = {_fit(name): str(value)[:LONGEST] for name, value in settings.items() if value is not None}
        new = [Param(name, value) for name, value in wanted.items() if name not in known]
        client.log_batch(identity, params=new)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics at a step."""
        from mlflow.entities import Metric

        self._step, now = step, int(1000 * time.time())
        metrics = [Metric(_fit(name), float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._identity, metrics=metrics)

    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """Write a table as an artifact, which MLflow shows as one."""
        columns = {key: [row[key] for row in rows] for key in rows[0]} if rows else {}
        self._client.log_table(self._identity, columns, f"{name}.json")

    def finish(self, state: str, results: Mapping[str, float]) -> None:
        """Log the results as metrics `result/NAME` and end the run; a paused one counts as killed."""
        self.log(self._step, {f"result/{name}": value for name, value in results.items()})
        self._client.set_tag(self._identity, "nas.state", state)
        self._client.set_terminated(self._identity, _STATUS.get(state, "FINISHED"))


def _fit(name: str) -> str:
    """Return a name that MLflow accepts: `decode_flops@64` is `decode_flops_at_64`."""
    return _UNFIT.sub("_", name.replace("@", "_at_"))


def open_tracker(where: str, project: str, mark: str) -> MLflow:
    """Open an experiment in a folder or at an address."""
    return MLflow(where, project, mark)
