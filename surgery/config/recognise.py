"""Recognition of files and folders that a user gave where something else is wanted.

Nothing is opened that could be large: a folder is known by the names in it, a YAML file by its top keys.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from surgery.config.json_source import parse_json
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.config.yaml_source import MAX_BYTES, load_yaml

Kind = Literal[
    "architecture", "design", "plan", "space", "model", "adapter", "study", "studies", "front", "data", "text"
]
Wanted = Literal["architecture", "space", "model", "study", "corpus"]

NAMES: dict[Kind, str] = {
    "architecture": "an architecture file",
    "design": "a portable design, an architecture without a backbone",
    "plan": "a plan of nas apply",
    "space": "a search space",
    "model": "a model folder",
    "adapter": "an adapter, not a whole model",
    "study": "a study's folder",
    "studies": "a folder of studies",
    "front": "the front of a study",
    "data": "a folder of prepared data",
    "text": "a text file",
}
ARTICLES: dict[Wanted, str] = {
    "architecture": "an architecture",
    "space": "a search space",
    "model": "a model",
    "study": "a study",
    "corpus": "a corpus",
}
# What to do instead; {path} is what was given, {folder} its path where a study's name was, {study} the folder
# of its study.
HINTS: dict[tuple[Wanted, Kind], str] = {
    ("architecture", "design"): "nas apply {path} MODEL -o OUT; without --portable, nas pick writes it whole",
    ("architecture", "plan"): "nas apply {path} MODEL -o OUT",
    ("architecture", "space"): "nas search {path}, or nas space sample {path} -o ARCH.yaml to draw one",
    ("architecture", "model"): "nas pick STUDY -o ARCH.yaml writes one; nas eval {path} measures this",
    ("architecture", "study"): "nas pick {path} -o ARCH.yaml writes one of its architectures",
    ("architecture", "studies"): "nas pick {path}/STUDY -o ARCH.yaml writes an architecture of one of them",
    ("architecture", "front"): "nas pick {study} -o ARCH.yaml writes one of its architectures",
    ("architecture", "data"): "it is a value of --data",
    ("space", "architecture"): "nas train {path} -o OUT trains it, nas show {path} shows it",
    ("space", "design"): "nas apply {path} MODEL -o OUT, or nas show {path}",
    ("space", "plan"): "nas apply {path} MODEL -o OUT",
    ("space", "model"): "nas search pretrained --model {path} searches its replacements",
    ("space", "study"): "its space is {folder}/space.yaml; nas show {path} shows the study",
    ("space", "studies"): "nas space list lists the presets, nas show {path}/STUDY shows a study",
    ("space", "front"): "its space is {study}/space.yaml; nas front {study} shows the front",
    ("space", "data"): "nas search SPACE --data {path} trains on it",
    ("model", "architecture"): "nas train {path} -o OUT trains it and writes a model",
    ("model", "design"): "nas apply {path} MODEL -o OUT puts it into a model",
    ("model", "plan"): "nas apply {path} MODEL -o OUT",
    ("model", "space"): "nas search {path} searches it",
    ("model", "study"): "nas pick {path} -o ARCH.yaml, then nas train ARCH.yaml -o OUT writes a model",
    ("model", "studies"): "nas pick {path}/STUDY -o ARCH.yaml, then nas train ARCH.yaml -o OUT",
    ("model", "front"): "nas pick {study} -o ARCH.yaml, then nas train ARCH.yaml -o OUT writes a model",
    ("model", "data"): "it is a value of --data",
    ("corpus", "architecture"): "nas train {path} -o OUT trains it",
    ("corpus", "design"): "nas apply {path} MODEL -o OUT puts it into a model",
    ("corpus", "plan"): "nas apply {path} MODEL -o OUT",
    ("corpus", "space"): "nas search {path} searches it",
    ("corpus", "study"): "nas show {path} shows it, and the text that it was trained on",
    ("corpus", "studies"): "nas show {path}/STUDY shows one of them",
    ("corpus", "front"): "nas front {study} shows it",
    ("study", "architecture"): "nas show {path} shows it",
    ("study", "design"): "nas show {path} shows it",
    ("study", "plan"): "nas apply {path} MODEL -o OUT",
    ("study", "space"): "nas search {path} starts or resumes its study",
    ("study", "model"): "nas eval {path} measures it",
    ("study", "studies"): "give the name of one of them, with --dir {path}",
    ("study", "front"): "give the study's folder: {study}",
    ("study", "data"): "nas data info {path}",
}


SUFFIXES = (".yaml", ".yml")  # of the files that users write


def recognise(path: str | os.PathLike[str]) -> Kind | None:
    """Return what a file or folder is; None if it does not exist, or is none of these."""
    where = expand(path)
    try:
        if where.is_dir():
            return _folder(where)
        return _file(where) if where.is_file() and where.stat().st_size <= MAX_BYTES else None
    except (OSError, UserError, ValueError):  # unreadable or no path at all: the caller's message says so
        return None


def other_kind(path: str | os.PathLike[str], wanted: Wanted, *fine: Kind) -> Problem | None:
    """Return the problem of a path that holds something else than what is wanted there.

    Args:
        path: as the user wrote it.
        wanted: what is wanted; also the problem's field.
        fine: kinds that will do.

    Returns:
        None if the path holds what is wanted, nothing, or something unknown.
    """
    kind = recognise(path)
    if kind is None or kind == wanted or kind in fine:
        return None
    text = os.fspath(path)
    study = _study_of(expand(path))
    hint = HINTS.get((wanted, kind), "").format(path=text, folder=text, study=study)
    return Problem(wanted, text, f"is {NAMES[kind]}, not {ARTICLES[wanted]}", hint)


def refuse_other(path: str | os.PathLike[str], wanted: Wanted, *fine: Kind) -> None:
    """Refuse a path that holds something else than what is wanted there.

    Raises:
        UserError: it does.
    """
    if problem := other_kind(path, wanted, *fine):
        raise UserError(f"{problem.value} is not {ARTICLES[wanted]}", [problem])


def nearest_file(path: str | os.PathLike[str], *kinds: Kind) -> str:
    """Return `did you mean "x.yaml"?` for a file that is missing, or an empty string.

    Args:
        path: as the user wrote it.
        kinds: what the file next to it, of a similar name, may be.
    """
    where = expand(path)
    try:
        stems = {Path(name).stem: name for name in os.listdir(where.parent) if name.endswith(SUFFIXES)}
    except (OSError, ValueError):
        return ""
    for stem in get_close_matches(where.stem, stems, cutoff=0.6):  # suffixes are alike anyway
        if recognise(where.parent / stems[stem]) in kinds:
            return f'did you mean "{Path(path).parent / stems[stem]}"?'
    return ""


def _folder(folder: Path) -> Kind | None:
    if _is_study(folder):
        return "study"
    if (folder / "config.json").is_file():
        return "model"
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "meta.json").is_file() and (folder / "tokenizer").exists():
        return "data"
    return "studies" if any(_is_study(child) for child in folder.iterdir() if child.is_dir()) else None


def _is_study(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("journal.log", "storage.url"))


def _file(path: Path) -> Kind | None:
    suffix = path.suffix.lower()
    if suffix == ".json":
        data = parse_json(path.read_bytes())
        return "front" if isinstance(data, Mapping) and {"front", "objectives"} <= data.keys() else None
    if suffix in (".yaml", ".yml", ""):
        return _yaml(load_yaml(path).data)
    return "text" if suffix in (".txt", ".jsonl", ".parquet", ".gz") else None


def _yaml(data: object) -> Kind | None:
    if not isinstance(data, Mapping):
        return None
    if data.keys() & {"search", "objectives", "proxy", "library"}:
        return "space"
    if "architecture" in data:
        return "plan"
    if "backbone" in data:
        return "architecture" if data.keys() & {"layout", "projections", "mixers", "loop", "ffn"} else None
    return "design" if "designed_for" in data else None


def _study_of(path: Path) -> str:
    """Return the nearest folder above a file that is a study's, else the file's own folder."""
    for folder in path.parents:
        if _is_study(folder):
            return str(folder)
    return str(path.parent)
