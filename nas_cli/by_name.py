"""Refusal of a name where a file is meant: a study's, a preset's, or a file's without its suffix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from surgery.config.recognise import Kind, Wanted

_SUFFIXES = (".yaml", ".yml")


def refuse_name(what: str, wanted: Wanted, *fine: Kind, runs: Path = DEFAULT_RUNS) -> None:
    """Refuse what is no path but names something else than is wanted, and say what it is.

    Args:
        what: as the user wrote it.
        wanted: `architecture`, `space` or `model`.
        fine: other kinds that will do.
        runs: folder that holds the studies.

    Raises:
        UserError: it names something else. What names nothing, or what is wanted, is left to the caller.
    """
    from search_spaces.catalog import list_presets
    from surgery.config.paths import expand
    from surgery.config.problems import Problem, UserError
    from surgery.config.recognise import ARTICLES, HINTS, recognise

    is_preset = any(preset.name == what for preset in list_presets())
    folder = runs / what
    is_study = "/" not in what and recognise(folder) == "study"
    if os.path.exists(expand(what)) or (is_study and "study" in fine) or (is_preset and wanted == "space"):
        return
    beside = [file for suffix in _SUFFIXES if recognise(file := f"{what}{suffix}") in (wanted, *fine)]
    if beside:
        rule, hint = "there is no such file", f'did you mean "{beside[0]}"?'
    elif is_study:
        rule = f"is a study, not {ARTICLES[wanted]}"
        hint = HINTS[wanted, "study"].format(path=what, folder=folder)
    elif is_preset:
        rule = f"is a preset, a search space, and not {ARTICLES[wanted]}"
        hint = HINTS[wanted, "space"].format(path=what)
    else:
        return
    raise UserError(f"{what} is not {ARTICLES[wanted]}", [Problem(wanted, what, rule, hint)])
