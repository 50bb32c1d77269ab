"""Opening the study that a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas_cli.render.screen import print_warnings

if TYPE_CHECKING:
    from studies.study import Study


def open_study(study: str, runs: Path, storage: str | None) -> Study:
    """Open a study by name or path; where its folder was renamed or copied, say which study it is.

    Raises:
        UserError: there is none, it can't be read, or nas did not make it.
    """
    from studies.study import Study

    opened = Study.open(study, runs, storage)
    print_warnings([opened.remark] if opened.remark else [])
    return opened
