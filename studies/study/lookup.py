"""Finding the study of a folder: in its own journal, or in a database under the name it has there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import optuna

from search_spaces.schema import NAME
from studies.files.json_file import read_json
from studies.storage.addresses import STORAGE, absolute, same, same_but_secrets, shown
from studies.storage.attributes import ATTRIBUTE, MARK
from studies.storage.opening import JOURNAL, open_storage
from studies.study.creation import SPACE_FILE, foreign_journal, where, write_space
from studies.study.location import HOME_FILE, URL_FILE, Home, stored_url
from studies.study.names import check_name, locate
from surgery.config.problems import Problem, UserError, nearest
from surgery.config.recognise import SUFFIXES, other_kind


@dataclass(frozen=True)
class StoredStudy:
    """An Optuna study and the storage it is in (None: the embedded one).

    Attributes:
        remark: what happened to the folder since it was made; empty if nothing.
        is_copy: whether another folder is the same study.
    """

    inner: optuna.Study
    url: str | None
    remark: str = ""
    is_copy: bool = False

    @property
    def id(self) -> str:
        """Id in the study's mark; empty if an earlier version made the study."""
        mark = self.inner.user_attrs.get(MARK)
        return str(mark.get("id", "")) if isinstance(mark, dict) else ""


def find(folder: Path, url: str | None, name: str) -> StoredStudy:
    """Find a study to read, which the user called `name`; nothing is created.

    Raises:
        UserError: there is none.
    """
    url = _asked(folder, url)
    stored_study = _find(folder, url, make=False)
    if stored_study is None:
        raise _unknown(folder, name, absolute(url) if url is not None else stored_url(folder))
    return stored_study


def find_here(folder: Path, url: str | None) -> StoredStudy | None:
    """Find a study to resume; None if a new one may be created, in the storage of `url` or the folder's.

    Raises:
        UserError: the folder is a copy of another study's, or its study is gone from the storage.
    """
    stored, url = stored_url(folder), _asked(folder, url)
    stored_study = _find(folder, url, make=url is not None)
    if stored_study is None and stored is not None and url is not None and not same(stored, absolute(url)):
        raise _elsewhere(folder, url, shown(stored))
    if stored_study is None and stored is not None and (folder / SPACE_FILE).exists():
        rule, hint = f"is not in {shown(stored)} any more", "give another --name, or restore the database"
        raise UserError("the study is gone", [Problem("study", folder.name, rule, hint)])
    if stored_study is not None and stored_study.is_copy:
        hint = "resume it in the other folder, or remove the one that is not wanted; or give another --name"
        raise UserError("not a study of its own", [Problem("study", folder.name, stored_study.remark, hint)])
    return stored_study


def check_new(name: str, runs: Path, url: str | None) -> Path:
    """Return the folder of a study to create or to resume, which is given by name and not by path.

    Raises:
        UserError: the name or the address is not valid.
    """
    if url is not None:
        absolute(url)
    plain = "/" not in name and name not in ("", ".", "..")
    # earlier versions checked no names
    if NAME.fullmatch(name) is None and not (plain and name.isprintable() and is_home(locate(name, runs))):
        check_name(name)
    folder = locate(name, runs)
    if not is_home(folder):
        check_name(name)
    return folder


def is_home(folder: Path) -> bool:
    """Return whether a folder holds a study or records where it is."""
    return (folder / JOURNAL).is_file() or (folder / URL_FILE).is_file()


def list_studies(runs: Path) -> list[str]:
    """Return the names of the studies in a folder."""
    return sorted(path.name for path in runs.iterdir() if is_home(path)) if runs.is_dir() else []


def remember(folder: Path, stored_study: StoredStudy, space_text: str) -> None:
    """Record in the folder where its study is, as it was reached now.

    Raises:
        UserError: a foreign file has the name of one that is written.
    """
    if stored_study.url is not None:
        front = folder / "front.json"
        if stored_url(folder) is None and front.exists() and "objectives" not in (read_json(front) or {}):
            rule, hint = "is not a study's; it is left as it is", "give another --dir, or move it away"
            raise UserError("can't use the folder", [Problem("front.json", str(front), rule, hint)])
        home = Home(stored_study.inner.study_name, stored_study.id, str(folder.resolve()))
        if Home.read(folder) != home or stored_url(folder) != stored_study.url:
            home.write(folder, stored_study.url)
    write_space(folder, space_text)


def forget(folder: Path) -> None:
    """Delete the folder's record of an incomplete study."""
    if Home.read(folder) is not None:
        for name in (URL_FILE, HOME_FILE):
            (folder / name).unlink(missing_ok=True)


def embedded(folder: Path) -> StoredStudy | None:
    """Return the study in a folder's own journal, even if the folder was renamed; None if there is none.

    Raises:
        UserError: it holds only studies that nas did not make, or several that it made.
    """
    if not (folder / JOURNAL).is_file() or (folder / JOURNAL).stat().st_size == 0:
        return None
    storage = open_storage(folder, None)
    studies = storage.get_all_studies()
    names = [study.study_name for study in studies if ATTRIBUTE in study.user_attrs]
    if not studies:
        return None
    if not names:
        raise foreign_journal(folder)
    if folder.name not in names and len(names) > 1:
        hint = "give the folder the name of one of them"
        rule = f"holds several studies: {', '.join(names)}"
        raise UserError("can't open the study", [Problem(JOURNAL, str(folder / JOURNAL), rule, hint)])
    name = folder.name if folder.name in names else names[0]
    return StoredStudy(optuna.load_study(study_name=name, storage=storage), None)


def _asked(folder: Path, url: str | None) -> str | None:
    """Return the storage to search, None for the folder's own. The environment only gives a default."""
    if url is None or url != os.environ.get(STORAGE):
        return url
    stored = stored_url(folder)
    if stored is None:
        return None if embedded(folder) is not None else url
    return url if same_but_secrets(stored, absolute(url)) else None


def _find(folder: Path, url: str | None, *, make: bool) -> StoredStudy | None:
    stored = stored_url(folder)
    given = None if url is None else absolute(url)
    if given is not None and (folder / JOURNAL).is_file() and embedded(folder) is not None:
        raise _elsewhere(folder, given, str(folder / JOURNAL))
    chosen = given or stored
    if chosen is None:
        return embedded(folder)
    home = Home.read(folder)
    storage = open_storage(folder, chosen, make=make)
    try:
        name = folder.name if home is None else home.study
        inner = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None
    stored_study = StoredStudy(inner, chosen)
    if (
        stored is None
        or given is None
        or same(stored, given)
        or (home is not None and home.id == stored_study.id)
    ):
        return stored_study if home is None else _with_remark(folder, stored_study, home)
    raise _elsewhere(folder, given, shown(stored))


def _with_remark(folder: Path, stored_study: StoredStudy, home: Home) -> StoredStudy:
    change, is_copy = home.moved(folder)
    if not change:
        return stored_study
    what = f'study "{home.study}" in {where(folder, stored_study.url)}'
    remark = f"{change}: both are {what}" if is_copy else f"{change}: it is {what}"
    return StoredStudy(stored_study.inner, stored_study.url, f"{folder} {remark}", is_copy)


def _elsewhere(folder: Path, url: str, here: str) -> UserError:
    rule, hint = f"but the study is in {here}", "leave --storage out, or give another --name"
    problem = Problem("storage", shown(url), rule, hint)
    return UserError(f'study "{folder.name}" exists in another storage', [problem])


def _unknown(folder: Path, name: str, url: str | None) -> UserError:
    for path in (name, folder):
        if problem := other_kind(path, "study"):
            return UserError("no such study", [problem])
    if url is not None:
        studies = open_storage(folder, url, make=False).get_all_studies()
        there = [study.study_name for study in studies if ATTRIBUTE in study.user_attrs]
        rule = f"is not in {shown(url)}"
    else:
        there, rule = list_studies(folder.parent), f"is not in {folder.parent}"
    if name.endswith(SUFFIXES) or "/" in name.rstrip("/"):
        rule += ", and there is no such file or folder"
    hint = nearest(folder.name, there) or (
        f"here are: {', '.join(there)}" if there else "nas search tiny starts one"
    )
    return UserError("no such study", [Problem("study", folder.name, rule, hint)])
