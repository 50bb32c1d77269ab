"""All trials of a study as CSV, Parquet or JSON lines."""

from __future__ import annotations

import sys
from pathlib import Path

from studies.study import Study
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError, nearest
from surgery.files.atomic import replacing

FORMATS = (".csv", ".parquet", ".jsonl")


def check_format(path: Path) -> None:
    """Check the extension of a file to write.

    Raises:
        UserError: it is none of `FORMATS`.
    """
    if path.suffix not in FORMATS:
        rule = f"must end with {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        hint = nearest(path.suffix, FORMATS) or "the extension says the format"
        raise UserError("can't write the trials", [Problem("--output", str(path), rule, hint)])


def export(study: Study, path: Path | None) -> int:
    """Write all trials of a study, as CSV to standard output without a path; return their number.

    Raises:
        UserError: the file can't be written.
    """
    table = study.to_dataframe()
    if path is None:
        table.to_csv(sys.stdout, index=False)
        return len(table)
    check_format(path)
    try:
        with replacing(expand(path)) as file:
            if path.suffix == ".parquet":
                table.to_parquet(file, index=False)
            elif path.suffix == ".csv":
                table.to_csv(file, index=False)
            else:
                table.to_json(file, orient="records", lines=True, date_format="iso")
    except OSError as error:
        problem = Problem("--output", str(path), error.strerror or str(error), "name a file you may write")
        raise UserError("can't write the trials", [problem]) from error
    return len(table)
