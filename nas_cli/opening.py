"""Opening the study or the space named on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas_cli.render.screen import print_warnings

if TYPE_CHECKING:
    from search_spaces import SearchSpace
    from studies.study import Study


def open_space(space: str, model: str | None) -> SearchSpace:
    """Load a space, with the pretrained model whose parts it replaces, if there is one.

    Raises:
        UserError: space or model can't be read, or don't fit each other.
    """
    from search_spaces import load_space

    if model is None:
        return load_space(space)
    from studies.workers.designs import model_section

    return load_space(space, model_section(model))


def open_study(study: str, runs: Path, storage: str | None) -> Study:
    """Open a study by name or path; warn if its folder was renamed or copied.

    Raises:
        UserError: there is no such study, it can't be read, or it was not created by nas.
    """
    from studies.study import Study

    opened = Study.open(study, runs, storage)
    print_warnings([opened.remark] if opened.remark else [])
    return opened
