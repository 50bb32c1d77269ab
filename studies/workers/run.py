"""A search from the first to the last step, as `nas search` runs it, for Python programs and notebooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from search_spaces import SearchSpace, load_space, named_model
from studies.reporting.annotator import annotating
from studies.study import Study
from studies.workers.progress import Snapshot
from studies.workers.request import SearchRequest


def search(
    space: str | Path | SearchSpace,
    *,
    model: str | None = None,
    on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None,
    **options: Any,
) -> Study:
    """Search a space until the study has its trials, and return the study; the same name resumes it.

    Worker processes do the work; leaving the call, also by Ctrl-C, stops them, and nothing is lost. Meanwhile
    the study gets its notes, graphs and artifacts for Optuna Dashboard.

    Args:
        space: a preset's name, a file, or a loaded space.
        model: folder or Hub id of a pretrained model, for a space of replacements; None: the one
            that the file names.
        on_snapshot: called about twice a second with what the study has and does.
        options: of `SearchRequest`, such as `name`, `trials`, `workers` and `data`.

    Raises:
        UserError: space, model, options or text can't be used.
    """
    if not isinstance(space, SearchSpace):
        model = model or named_model(space)
        if model is None:
            space = load_space(space)
        else:
            from studies.workers.designs import model_section  # with it comes transformers: seconds

            space = load_space(space, model_section(model))
    request = SearchRequest(space, **options)
    request.check()
    study, _ = request.open(request.prepare())
    with annotating(study):
        for snapshot in request.supervise(study).watch():
            on_snapshot(snapshot)
    return study
