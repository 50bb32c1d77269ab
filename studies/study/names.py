"""Names of studies: valid names of new ones, and the folder that a name or a path refers to."""

from __future__ import annotations

import os
import re
from pathlib import Path

from search_spaces.schema import NAME
from surgery.config.problems import Problem, UserError

LONGEST = 255  # bytes of a file's name
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_name(name: str) -> None:
    """Check the name of a new study.

    Raises:
        UserError: a new study can't have this name.
    """
    if not NAME.fullmatch(name):
        rule = (
            "must be a name of letters, digits, dot, dash and underscore that begins with a letter or digit"
        )
        hint = "--dir names the folder that it is made in"
    elif len(name) > LONGEST:
        rule, hint = f"has {len(name)} characters, {LONGEST} are possible", ""
    else:
        return
    raise UserError("not a study's name", [Problem("name", name, rule, hint)])


def locate(name: str, runs: Path) -> Path:
    """Return the study's folder: `runs/NAME`, or NAME itself when it is a path. It need not exist.

    Raises:
        UserError: no folder can have this name.
    """
    rule = _broken_rule(name) or _broken_rule(str(runs), "--dir ")
    if rule:
        raise UserError("no such study", [Problem("study", name, rule)])
    bare = name.rstrip("/")
    if bare not in ("", ".", "..") and "/" not in bare:
        return runs / bare
    path = Path(name)
    return path.resolve() if path.name in ("", "..") else path


def _broken_rule(text: str, what: str = "") -> str:
    if not text.strip():
        return f"{what}is empty"
    if _CONTROL.search(text):
        return f"{what}holds a line break or another control character"
    try:
        longest = max(len(os.fsencode(part)) for part in text.split("/"))
    except UnicodeEncodeError:
        return f"{what}is not text"
    return f"{what}has a part of {longest} bytes, {LONGEST} are possible" if longest > LONGEST else ""


CHECKPOINT = "checkpoint.pt"
