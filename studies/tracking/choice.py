"""The trackers that there are, and what a user asked for with `--track`. Loads none of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from studies.tracking.tracker import Tracker
from surgery.config.paths import expand
from surgery.config.problems import Problems, nearest

FOLDER = "tracking"  # of the local stores, in a study's folder


@dataclass(frozen=True)
class Kind:
    """A tracker.

    Attributes:
        package: the module that it needs, which the extra of the tracker's name installs.
        title: its own name.
        view: the command that shows a local store.
        variable: environment variable that says where to store, if it is set.
    """

    package: str
    title: str
    view: str
    variable: str | None = None

    @property
    def installed(self) -> bool:
        """True if its package can be imported; a folder that happens to have its name is no package."""
        spec = find_spec(self.package)
        return spec is not None and spec.origin is not None


KINDS = {
    "tensorboard": Kind("tensorboard", "TensorBoard", "tensorboard --logdir {where}"),
    "wandb": Kind("wandb", "Weights & Biases", "wandb sync {where}/wandb/offline-run-*", "WANDB_DIR"),
    "mlflow": Kind(
        "mlflow", "MLflow", "mlflow ui --backend-store-uri sqlite:///{where}/mlflow.db", "MLFLOW_TRACKING_URI"
    ),
    "trackio": Kind("trackio", "trackio", "TRACKIO_DIR={where} trackio show", "TRACKIO_DIR"),
}


@dataclass(frozen=True)
class Choice:
    """A tracker as it was asked for.

    Attributes:
        name: one of `KINDS`.
        where: folder or address of its store; None: as its environment variable says, or the default folder.
    """

    name: str
    where: str | None = None

    def store(self, folder: Path) -> str:
        """Return where the tracker stores; `folder` holds the stores of all trackers by default."""
        kind = KINDS[self.name]
        given = self.where or (os.environ.get(kind.variable) if kind.variable else None)
        if given and "://" in given:
            return given
        return str((expand(given) if given else folder / self.name).absolute())

    def open(self, folder: Path, project: str, mark: str) -> Tracker:
        """Load the tracker's package and open its store.

        Args:
            folder: holds the stores of all trackers by default.
            project: name of what the runs belong to.
            mark: tells projects of the same name apart.
        """
        module = import_module(f"studies.tracking.{self.name}")
        return cast(Tracker, module.open_tracker(self.store(folder), project, mark))

    def view(self, folder: Path) -> str:
        """Return the command that shows what was tracked, or the address of the server that has it."""
        where = self.store(folder)
        return where if "://" in where else KINDS[self.name].view.format(where=where)


def choose(options: Iterable[str]) -> list[Choice]:
    """Return the trackers that options such as `mlflow` or `tensorboard=FOLDER` name, each once.

    Raises:
        UserError: there is no such tracker, or its package is not installed; every problem is named.
    """
    problems, choices = Problems(), []
    for option in options:
        name, equals, where = option.partition("=")
        kind = KINDS.get(name)
        if kind is None:
            problems.add("--track", name, f"must be one of {', '.join(KINDS)}", nearest(name, KINDS))
        elif equals and not where.strip():
            problems.add("--track", option, "names no folder or address", f"such as {name}=FOLDER")
        elif not kind.installed:
            hint = f'pip install "nas-cli[{name}]"'
            problems.add("--track", name, f"needs {kind.title}, which is not installed", hint)
        else:
            choices.append(Choice(name, where or None))
    problems.raise_if_any("can't track")
    return list(dict.fromkeys(choices))
