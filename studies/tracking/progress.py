"""The part of each run that a tracker has been given, so that a resumed search repeats nothing."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from studies.files.json_file import read_json, write_json
from studies.tracking.choice import Choice


@dataclass
class Tracked:
    """The part of one run that one tracker was given."""

    step: int = 0
    ended: str = ""  # how the run ended; empty while it runs


@dataclass
class Progress:
    """Record of what one tracker was given of every run of a study, kept in a file.

    Attributes:
        path: the file.
        mark: random; tells studies of the same name apart.
        runs: by name.
    """

    path: Path
    mark: str
    runs: dict[str, Tracked] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, choice: Choice) -> Progress:
        """Read the file of a tracker in a folder, which need not exist.

        Raises:
            UserError: the file is damaged.
        """
        where = "" if choice.where is None else f"-{hashlib.sha256(choice.where.encode()).hexdigest()[:8]}"
        path = folder / f"{choice.name}{where}.json"
        content = read_json(path, hint="remove it; the search then tracks all trials again")
        if content is None:
            return cls(path, secrets.token_hex(4))
        return cls(path, content["mark"], {name: Tracked(**known) for name, known in content["runs"].items()})

    def of(self, run: str) -> Tracked:
        """Return what the tracker was given of a run; change it, then `write`."""
        return self.runs.setdefault(run, Tracked())

    def write(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(exist_ok=True)  # a study that was deleted is not made again
        runs = {name: asdict(known) for name, known in self.runs.items()}
        write_json(self.path, {"mark": self.mark, "runs": runs})
