"""Refusal of a name where a file is meant: a study's, a preset's, or a file's without its suffix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from surgery.config.recognise import Kind, Wanted


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
    from surgery.config.recognise import ARTICLES, HINTS, SUFFIXES, nearest_file, recognise

    is_preset = any(preset.name == what for preset in list_presets())
    folder = runs / what
    is_study = "/" not in what and recognise(folder) == "study"
    if os.path.exists(expand(what)) or (is_study and "study" in fine) or (is_preset and wanted == "space"):
        return
    beside = [file for suffix in SUFFIXES if recognise(file := f"{what}{suffix}") in (wanted, *fine)]
    if beside:
        rule, hint = "there is no such file", f'did you mean "{beside[0]}"?'
    elif is_study:
        rule = f"is a study, not {ARTICLES[wanted]}"
        hint = HINTS[wanted, "study"].format(path=what, folder=folder)
    elif is_preset:
        rule = f"is a preset, a search space, and not {ARTICLES[wanted]}"
        hint = HINTS[wanted, "space"].format(path=what)
    elif wanted == "architecture" and (what.endswith(SUFFIXES) or "study" not in fine):
        rule = "there is no such file"
        hint = nearest_file(what, wanted, *fine) or _written_by_pick(what, runs)
        raise UserError(f"there is no file {what}", [Problem(wanted, what, rule, hint)])
    else:
        return
    raise UserError(f"{what} is not {ARTICLES[wanted]}", [Problem(wanted, what, rule, hint)])


def _written_by_pick(what: str, runs: Path) -> str:
    """Return the command that writes an architecture of a study into the file that is missing."""
    from surgery.config.recognise import SUFFIXES, recognise

    folders = sorted(runs.iterdir()) if runs.is_dir() else []
    there = [folder.name for folder in folders if recognise(folder) == "study"]
    file = what if what.endswith(SUFFIXES) else f"{what}{SUFFIXES[0]}"
    where = "" if runs == DEFAULT_RUNS else f" --dir {runs}"
    if not there:
        return f"nas search tiny starts a study, and nas pick STUDY -o {file} writes one of its architectures"
    which = f"; studies here are {', '.join(there)}" if len(there) > 1 else ""
    study = there[0] if len(there) == 1 else "STUDY"
    return f"nas pick {study}{where} -o {file} writes one{which}"
