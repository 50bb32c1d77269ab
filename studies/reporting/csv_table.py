"""Trials as CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from search_spaces.objectives import Objective
from studies.analysis.marks import KNEE, PICKED, Marks
from studies.analysis.standings import Standings
from studies.study.trial_record import TrialRecord
from surgery.files.outputs import output


def write_csv(
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    path: Path | None,
    standings: Standings,
    marks: Marks,
) -> None:
    """Write one row per trial to a file, or to standard output without `path`.

    The columns are number, baseline, hash, architecture, objectives, every other metric, runs, probability of
    being on the front, half widths of the 90 % intervals of the means, and whether it is the knee and picked.

    Raises:
        UserError: the file can't be written, or exists and was not written by `nas`.
    """
    names = [item.name for item in objectives]
    names += sorted({name for record in records for name in record.metrics} - set(names))
    with ExitStack() as stack:
        file: TextIO = sys.stdout
        if path is not None:
            target = stack.enter_context(output(path, "--csv", "table"))
            file = stack.enter_context(target.open("w", newline="", encoding="utf-8"))
        writer = csv.writer(file)
        measured = [index for index, item in enumerate(objectives) if item.measured]
        noise = ["runs", "p_front", *(f"{objectives[index].name}_half" for index in measured)]
        writer.writerow(["trial", "baseline", "hash", "architecture", *names, *noise, KNEE, PICKED])
        for record in records:
            metrics = [record.metrics.get(name, "") for name in names]
            row = standings.standing(record)
            known = [row.runs, row.p_front, *(row.half[index] for index in measured)]
            writer.writerow(
                [record.number, record.baseline or "", record.hash, record.line, *metrics]
                + ["" if value is None else value for value in known]
                + list(marks.to_dict(record).values())
            )
