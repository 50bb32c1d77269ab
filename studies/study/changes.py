"""Refusal to resume a study with another space or other settings, in a few lines, and with what to do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from search_spaces import SearchSpace
from search_spaces.space import Change
from studies.data.corpora import located
from studies.data.tokenizers import located_tokenizer
from studies.files.defaults import DEFAULT_RUNS, DEFAULT_SAMPLER
from studies.study.creation import SPACE_FILE
from studies.study.settings import FIXED, MILP, StudySettings
from surgery.config.problems import Problem, UserError

MOST = 8  # lines of changes
_WIDTH = 48  # characters of a value
_LINE = 100  # characters of the changes of a section
_AROUND = 12  # characters in front of the first difference of long values


def refuse_changes(
    folder: Path, started: tuple[SearchSpace, StudySettings], asked: tuple[SearchSpace, StudySettings]
) -> None:
    """Refuse a space or settings that differ from those that a study was started with.

    Args:
        folder: of the study.
        started: what the study was started with.
        asked: what it is to be resumed with.

    Raises:
        UserError: they differ; the fields that do are named, and two commands that work.
    """
    changes = [*started[0].diff(asked[0]), *_of_settings(*started, *asked)]
    if not changes:
        return
    *lines, last = _lines(changes)
    hint = f"--name {_free_name(folder)} starts another study; "
    hint += f"this one is resumed by {_command(folder, *started)}"
    problems = [Problem(field, None, text) for field, text in lines]
    title = f'study "{folder.name}" was started differently, and keeps its space and settings'
    raise UserError(title, [*problems, Problem(last[0], None, last[1], hint)])


def _of_settings(
    space: SearchSpace, old: StudySettings, new_space: SearchSpace, new: StudySettings
) -> list[Change]:
    """Return the changed settings, without those that follow from another one or from the space."""
    # older studies keep a path as it was typed
    both = [
        {
            **{key: getattr(item, key) for key in FIXED},
            "corpus": located(item.corpus),
            "tokenizer": located_tokenizer(item.tokenizer),
        }
        for item in (old, new)
    ]
    changed = [key for key in FIXED if both[0][key] != both[1][key]]
    text = {"corpus", "tokenizer"} & set(changed)
    follows = {
        key for key in text if getattr(space.data, key) != getattr(new_space.data, key)
    }  # among the space's fields
    if text:
        follows.add("data_hash")
    return [Change(key, str(both[0][key]), str(both[1][key])) for key in changed if key not in follows]


def _lines(changes: Sequence[Change]) -> list[tuple[str, str]]:
    """Return a line (field, old -> new) for each change, or where there are many for each section."""
    if len(changes) <= MOST:
        return [(item.field, _arrow(item)) for item in changes]
    sections: dict[str, list[Change]] = {}
    for item in changes:
        sections.setdefault(item.field.partition(".")[0], []).append(item)
    lines = [_line(name, items) for name, items in sections.items()]
    if len(lines) > MOST:
        rest = [name for name, _ in lines[MOST - 1 :]]
        lines = [*lines[: MOST - 1], ("and", f"{', '.join(rest)} differ")]
    return lines


def _line(section: str, changes: Sequence[Change]) -> tuple[str, str]:
    """Return a section with as many of its changes as fit into a line, and names of the others."""
    if len(changes) == 1:
        return changes[0].field, _arrow(changes[0])
    names = [item.field.partition(".")[2] for item in changes]
    shown = _fitting([f"{name} {_arrow(item)}" for name, item in zip(names, changes, strict=True)], "; ")
    others = names[len(shown) :]
    named = _fitting(others, ", ")
    text = "; ".join(shown) + (f"; also {', '.join(named)}" if others else "")
    more = len(others) - len(named)
    return section, text + (f" and {more} more" if more else "")


def _fitting(texts: Sequence[str], separator: str) -> list[str]:
    """Return the first texts, one at least, that fit into a line."""
    count = len(texts)
    while count > 1 and len(separator.join(texts[:count])) > _LINE:
        count -= 1
    return list(texts[:count])


def _arrow(change: Change) -> str:
    """Return `old -> new`; of long values the part around their first difference."""
    old, new = change.before, change.after
    if max(len(old), len(new)) > _WIDTH:
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
        start = max(0, same - _AROUND)
        old, new = (_cut(text, start) for text in (old, new))
    return f"{old} -> {new}"


def _cut(text: str, start: int) -> str:
    end = start + _WIDTH
    return ("…" if start else "") + text[start:end] + ("…" if len(text) > end else "")


def _free_name(folder: Path) -> str:
    number = 2
    while (folder.parent / f"{folder.name}-{number}").exists():
        number += 1
    return f"{folder.name}-{number}"


def _command(folder: Path, space: SearchSpace, settings: StudySettings) -> str:
    """Return the command that resumes a study, which keeps its threads and precision where none are given."""
    usual = space.name if space.model is None else Path(space.model.name).name
    sampler = DEFAULT_SAMPLER if space.model is None else MILP
    default = StudySettings(
        sampler=sampler, corpus=located(space.data.corpus), tokenizer=located_tokenizer(space.data.tokenizer)
    )
    options = {
        "name": folder.name if folder.name != usual else None,
        "dir": folder.parent if folder.parent != DEFAULT_RUNS else None,
    }
    for option, key in (
        ("data", "corpus"), ("tokenizer", "tokenizer"), ("sampler", "sampler"), ("stopping", "stopping"),
        ("seed", "seed"), ("compile", "compile"),
    ):  # fmt: skip
        value = getattr(settings, key)
        options[option] = value if value != getattr(default, key) else None
    words = ["nas", "search", str(folder / SPACE_FILE)]
    for option, value in options.items():
        words += [] if value is None else [f"--{option}", str(value)]
    return shlex.join(words)
