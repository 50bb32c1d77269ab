"""The part of each run that a tracker has been given, so that a resumed search repeats nothing."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from studies.files.json_file import read_json, write_json

FILE = "tracked.json"


@dataclass
class Tracked:
    """The part of one run that one tracker was given."""

    step: int = 0
    ended: str = ""  # how the run ended; empty while it runs


@dataclass
class Progress:
    """Record of what every tracker was given of every run of a study, kept in a file.

    Attributes:
        path: the file.
        mark: random; tells studies of the same name apart.
        trackers: by tracker, then by name of the run.
    """

    path: Path
    mark: str
    trackers: dict[str, dict[str, Tracked]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """Read the file of a folder, which need not exist.

        Raises:
            UserError: the file is damaged.
        """
        path = folder / FILE
        content = read_json(path, hint="remove it; the search then tracks all trials again")
        if content is None:
            return cls(path, secrets.token_hex(4))
        trackers = {
            tracker: {name: Tracked(**values) for name, values in runs.items()}
            for tracker, runs in content["trackers"].items()
        }
        return cls(path, content["mark"], trackers)

    def of(self, tracker: str, run: str) -> Tracked:
        """Return what a tracker was given of a run; change it, then `write`."""
        return self.trackers.setdefault(tracker, {}).setdefault(run, Tracked())

    def write(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(exist_ok=True)  # a study that was deleted is not made again
        runs = {
            tracker: {name: asdict(known) for name, known in runs.items()}
            for tracker, runs in self.trackers.items()
        }
        write_json(self.path, {"mark": self.mark, "trackers": runs})
