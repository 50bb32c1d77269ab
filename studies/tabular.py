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
from studies.standings import Standings
from surgery.problems import Problem, UserError


def write_csv(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], path: Path | None, standings: Standings
) -> None:
    """A row a trial: number, baseline, hash, architecture, objectives, then every other metric; at the end
    runs, probability of being on the front, and half widths of the 90 % intervals of the means.

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
            measured = [place for place, item in enumerate(objectives) if item.measured]
            noise = ["runs", "p_front", *(f"{objectives[place].name}_half" for place in measured)]
            writer.writerow(["trial", "baseline", "hash", "architecture", *names, *noise])
            for record in records:
                metrics = [record.metrics.get(name, "") for name in names]
                row = standings.standing(record)
                known = [row.runs, row.p_front, *(row.half[place] for place in measured)]
                writer.writerow(
                    [record.number, record.baseline or "", record.hash, record.line, *metrics]
                    + ["" if value is None else value for value in known]
                )
    except OSError as error:
        if path is None:
            raise  # whoever read the pipe has gone: the terminal's affair
        problem = Problem("--csv", str(path), error.strerror or str(error), "name a file you may write")
        raise UserError("can't write the table", [problem]) from error
