"""Trials as CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from search_spaces.objectives import Objective
from studies.records import TrialRecord
from surgery.problems import Problem, UserError


def write_csv(records: Sequence[TrialRecord], objectives: Sequence[Objective], path: Path | None) -> None:
    """A row a trial: number, baseline, hash, architecture, objectives, then every other metric.

    Raises:
        UserError: the file can't be written.
    """
    names = [item.name for item in objectives]
    names += sorted({name for record in records for name in record.metrics} - set(names))
    try:
        stream: TextIO | nullcontext[TextIO]
        stream = nullcontext(sys.stdout) if path is None else path.open("w", newline="", encoding="utf-8")
        with stream as file:
            writer = csv.writer(file)
            writer.writerow(["trial", "baseline", "hash", "architecture", *names])
            for record in records:
                metrics = [record.metrics.get(name, "") for name in names]
                writer.writerow([record.number, record.baseline or "", record.hash, record.line, *metrics])
    except OSError as error:
        if path is None:
            raise  # whoever read the pipe has gone: the terminal's affair
        problem = Problem("--csv", str(path), error.strerror or str(error), "name a file you may write")
        raise UserError("can't write the table", [problem]) from error
