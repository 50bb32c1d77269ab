"""Picks of a study, kept with it, so that every machine that reads the study knows them.

Each pick is an attribute of its own, named after its trial: who picks the same again replaces the entry, and
processes that pick different ones don't overwrite each other's.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import optuna

from studies.storage.attributes import PICK
from studies.storage.optuna_access import set_study_system_attr, study_system_attrs


@dataclass(frozen=True)
class Pick:
    """An architecture that somebody picked.

    Attributes:
        trial: number of the trial that has it; of a replicate, the trial that it repeats.
        name: of the trial, as it is shown.
        hash: of the architecture.
        best: objective in which it was to be the best; None: it was the knee, or asked for by its number.
        asked: whether it was asked for by its number.
        limits: that the choice had to meet, such as `params <= 40M`.
        reason: why it was chosen, in words.
        at: when, in ISO 8601 with the time zone.
        output: absolute path of the file that it was written to; None: to standard output.
        machine: that has the file.
        portable: whether the file has no backbone.
        bounds: values of the limits in their metrics' units, which `limits` shows rounded; empty of picks
            of an earlier version.
    """

    trial: int
    name: str
    hash: str
    best: str | None
    asked: bool
    limits: tuple[str, ...]
    reason: str
    at: str
    output: str | None
    machine: str
    portable: bool = False
    bounds: tuple[float, ...] = ()

    @classmethod
    def of(cls, data: dict[str, Any]) -> Pick:
        """Return a stored pick; keys of a later version are left out."""
        known = {item.name for item in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        return cls(**{**values, "limits": tuple(data["limits"]), "bounds": tuple(data.get("bounds", ()))})

    @property
    def criterion(self) -> str:
        """Return `the knee of the front`, `the best val_loss` or `asked for by number`."""
        if self.asked:
            return "asked for by number"
        return "the knee of the front" if self.best is None else f"the best {self.best}"

    @property
    def within(self) -> str:
        """Return its limits as ` within params <= 40M`; empty without any."""
        return f" within {', '.join(self.limits)}" if self.limits else ""

    @property
    def where(self) -> str:
        """Return the place of its file in words: `pick.yaml of HOST`, or `standard output`."""
        return "standard output" if self.output is None else f"{self.output} of {self.machine}"

    @property
    def day(self) -> str:
        """Return its time as `2026-12-01 09:30 UTC`."""
        return datetime.fromisoformat(self.at).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")

    def describe(self, since: str = "") -> str:
        """Return it in a line.

        Args:
            since: what it was, and what has its place now, if another trial has; else empty.
        """
        return f"{self.name} ({since or self.criterion + self.within}) {self.day}, written to {self.where}"

    def to_dict(self) -> dict[str, Any]:
        """Return the pick for `--json`; its keys are stable."""
        return {**asdict(self), "limits": list(self.limits), "bounds": list(self.bounds)}


def read_picks(inner: optuna.Study) -> list[Pick]:
    """Return the picks of a study, the newest first."""
    stored = study_system_attrs(inner)
    picks = [Pick.of(value) for name, value in stored.items() if name.startswith(PICK)]
    return sorted(picks, key=lambda pick: pick.at, reverse=True)


def store_pick(inner: optuna.Study, pick: Pick) -> None:
    """Store a pick, in place of an earlier one of the same trial.

    Raises:
        OSError, StorageInternalError: the study can only be read.
    """
    set_study_system_attr(inner, f"{PICK}{pick.trial}", pick.to_dict())


def next_command(file: str, model: str | None, *, portable: bool = False) -> str:
    """Return the command that trains a picked architecture, or applies it.

    Args:
        file: that it is in.
        model: the pretrained model of the study; None: its architectures are trained from scratch.
        portable: whether the file has no backbone.
    """
    name = shlex.quote(file)
    if model is not None:
        return f"nas apply {name} {shlex.quote(model)} -o OUT --heal TOKENS --control"
    return f"nas apply {name} MODEL -o OUT" if portable else f"nas train {name} -o OUT"
