"""An audit on disk: its architectures, training length and finished runs.

runs/NAME/audit/4x/  plan.json       the chosen trials and the seed they were chosen with
                     HASH-0.json     result of an architecture's first long run, once it is finished
                     HASH-0.jsonl    its loss curve
                     HASH-0.lock     locked while a process trains it

Designs of a pretrained model are healed instead: audit/heal-1000000/, with control.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.audit.sample import Member, auditable, choose_members
from studies.files.json_file import read_json, write_json
from studies.stats.extrapolation import end_loss
from studies.stats.seeds import derive_seed
from studies.storage.opening import explain_storage_errors
from studies.study import Study
from surgery.config.problems import Problem, UserError
from surgery.files.lock import Lock

CONTROL = "control.json"  # losses of the original model, in the audit's folder


@dataclass(frozen=True)
class Run:
    """One long training of one architecture; `repeat` is the index of its seed."""

    member: Member
    repeat: int
    folder: Path

    @property
    def result(self) -> Path:
        """File of the result."""
        return self.folder / f"{self.member.hash}-{self.repeat}.json"

    @property
    def curve(self) -> Path:
        """File of the loss curve."""
        return self.result.with_suffix(".jsonl")

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Lock the run; yields False if another process trains it or it is finished.

        The lock is released when its holder dies.
        """
        with Lock(self.result.with_suffix(".lock")).attempt() as free:
            yield free and not self.result.exists()


@dataclass(frozen=True)
class Audit:
    """An audit of a study with `times` times the proxy's tokens, or of designs that are healed.

    Attributes:
        heal: tokens of the healing of designs of a pretrained model; None: architectures are trained longer.
        members: every architecture that it ever chose.
        wanted: number of them to train; finished runs of the others count as well.
    """

    study: Study
    times: int
    folder: Path
    members: tuple[Member, ...]
    wanted: int
    heal: int | None = None

    @property
    def judge(self) -> str:
        """The metric by which the study ranks."""
        return end_loss(self.study.space.objectives)

    def runs(self, seeds: int) -> list[Run]:
        """Return the runs to train: the first seed of every architecture before the second of any."""
        return [
            Run(member, repeat, self.folder)
            for repeat in range(seeds)
            for member in self.members[: self.wanted]
        ]

    def results(self) -> dict[str, list[dict[str, Any]]]:
        """Return the results of finished runs by architecture hash, in the order of the seeds."""
        results: dict[str, list[dict[str, Any]]] = {}
        for member in self.members:
            paths = sorted(
                self.folder.glob(f"{member.hash}-*.json"), key=lambda path: int(path.stem.split("-")[-1])
            )
            results[member.hash] = [data for path in paths if (data := read_json(path)) is not None]
        return results


def open_audit(study: Study, times: int, architectures: int, heal: int | None = None) -> Audit:
    """Open the study's audit of this length, extended to at least `architectures` members.

    Args:
        study: the study.
        times: length of the long runs, in proxies.
        architectures: number of members.
        heal: tokens of a healing, in place of long runs.

    Raises:
        UserError: fewer than two architectures are trained, or the folder can't be written.
    """
    folder = study.folder / "audit" / (f"{times}x" if heal is None else f"heal-{heal}")
    records = study.records()
    trained = len(auditable(records))
    if trained < 2:
        rule = f"has {trained} trained architectures: there is nothing to rank"
        raise UserError("too early for an audit", [Problem("study", study.name, rule, "search first")])
    with explain_storage_errors(study.folder), study.exclusive():
        folder.mkdir(parents=True, exist_ok=True)
        plan = read_json(folder / "plan.json") or {"members": []}
        kept = [Member.from_dict(item) for item in plan["members"]]
        if len(kept) < min(architectures, trained):
            seed = derive_seed(study.settings.seed, "audit", times if heal is None else f"heal {heal}")
            on_front = {record.number for record in study.front()}
            kept = choose_members(
                records, on_front, architectures, seed, kept, end_loss(study.space.objectives)
            )
            plan = {
                "study": study.name,
                "times": times,
                **({} if heal is None else {"heal": heal}),
                "seed": seed,
                "members": [member.to_dict() for member in kept],
            }
            write_json(folder / "plan.json", plan)
    return Audit(study, times, folder, tuple(kept), architectures, heal)
