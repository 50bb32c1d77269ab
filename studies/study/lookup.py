"""Finding the study of a folder: in its own journal, or in a database under the name it has there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import optuna

from search_spaces.schema import NAME
from studies.files.atomic import read_json
from studies.storage.addresses import STORAGE, absolute, same, same_but_secrets, shown
from studies.storage.attributes import ATTRIBUTE, MARK
from studies.storage.opening import JOURNAL, open_storage
from studies.study.creation import SPACE_FILE, foreign_journal, where, write_space
from studies.study.location import HOME_FILE, URL_FILE, Home, stored_url
from studies.study.names import check_name, locate
from surgery.config.problems import Problem, UserError, nearest


@dataclass(frozen=True)
class Found:
    """An Optuna study and the storage it is in (None: the embedded one).

    Attributes:
        remark: what became of the folder since it was made; empty if nothing did.
        is_copy: whether another folder is the same study.
    """

    inner: optuna.Study
    url: str | None
    remark: str = ""
    is_copy: bool = False

    @property
    def id(self) -> str:
        """What it was marked with; empty if an earlier version made it."""
        mark = self.inner.user_attrs.get(MARK)
        return str(mark.get("id", "")) if isinstance(mark, dict) else ""


def find(folder: Path, url: str | None, runs: Path) -> Found:
    """Find a study to read; nothing is made.

    Raises:
        UserError: there is none.
    """
    url = _asked(folder, url)
    found = _find(folder, url, make=False)
    if found is None:
        raise _unknown(folder, runs, absolute(url) if url is not None else stored_url(folder))
    return found


def find_here(folder: Path, url: str | None) -> Found | None:
    """Find a study to resume; None where a new one may be made, in the storage of `url` or the folder's.

    Raises:
        UserError: the folder is the copy of another study's, or was one whose trials are gone.
    """
    stored, url = stored_url(folder), _asked(folder, url)
    found = _find(folder, url, make=url is not None)
    if found is None and stored is not None and url is not None and not same(stored, absolute(url)):
        raise _elsewhere(folder, url, shown(stored))
    if found is None and stored is not None and (folder / SPACE_FILE).exists():
        rule, hint = f"is not in {shown(stored)} any more", "give another --name, or restore the database"
        raise UserError("the study is gone", [Problem("study", folder.name, rule, hint)])
    if found is not None and found.is_copy:
        hint = "resume it in the other folder, or remove the one that is not wanted; or give another --name"
        raise UserError("not a study of its own", [Problem("study", folder.name, found.remark, hint)])
    return found


def check_new(name: str, runs: Path, url: str | None) -> Path:
    """Return the folder of a study to make or to resume, which is named and not given by its path.

    Raises:
        UserError: no study can be called so, or nothing can be stored at this address.
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
    """Whether a folder holds a study or says where it is."""
    return (folder / JOURNAL).is_file() or (folder / URL_FILE).is_file()


def list_studies(runs: Path) -> list[str]:
    """Names of the studies in a folder."""
    return sorted(path.name for path in runs.iterdir() if is_home(path)) if runs.is_dir() else []


def remember(folder: Path, found: Found, space_text: str) -> None:
    """Note in the folder where its study is, as it was reached now.

    Raises:
        UserError: a file of somebody else's has the name of one that is written.
    """
    if found.url is not None:
        front = folder / "front.json"
        if stored_url(folder) is None and front.exists() and "objectives" not in (read_json(front) or {}):
            rule, hint = "is not a study's; it is left as it is", "give another --dir, or move it away"
            raise UserError("can't use the folder", [Problem("front.json", str(front), rule, hint)])
        home = Home(found.inner.study_name, found.id, str(folder.resolve()))
        if Home.read(folder) != home or stored_url(folder) != found.url:
            home.write(folder, found.url)
    write_space(folder, space_text)


def forget(folder: Path) -> None:
    """Remove what the folder says of a study whose creation was cut off."""
    if Home.read(folder) is not None:
        for name in (URL_FILE, HOME_FILE):
            (folder / name).unlink(missing_ok=True)


def embedded(folder: Path) -> Found | None:
    """The study of a folder's own journal, whatever the folder is called now; None where it holds none.

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
    return Found(optuna.load_study(study_name=name, storage=storage), None)


def _asked(folder: Path, url: str | None) -> str | None:
    """The storage to look in, None for that of the folder. What the environment names is only a default."""
    if url is None or url != os.environ.get(STORAGE):
        return url
    stored = stored_url(folder)
    if stored is None:
        return None if embedded(folder) is not None else url
    return url if same_but_secrets(stored, absolute(url)) else None


def _find(folder: Path, url: str | None, *, make: bool) -> Found | None:
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
    found = Found(inner, chosen)
    if stored is None or given is None or same(stored, given) or (home is not None and home.id == found.id):
        return found if home is None else _with_remark(folder, found, home)
    raise _elsewhere(folder, given, shown(stored))


def _with_remark(folder: Path, found: Found, home: Home) -> Found:
    told, is_copy = home.moved(folder)
    if not told:
        return found
    what = f'study "{home.study}" in {where(folder, found.url)}'
    remark = f"{told}: both are {what}" if is_copy else f"{told}: it is {what}"
    return Found(found.inner, found.url, f"{folder} {remark}", is_copy)


def _elsewhere(folder: Path, url: str, here: str) -> UserError:
    rule, hint = f"but the study is in {here}", "leave --storage out, or give another --name"
    problem = Problem("storage", shown(url), rule, hint)
    return UserError(f'study "{folder.name}" exists in another storage', [problem])


def _unknown(folder: Path, runs: Path, url: str | None) -> UserError:
    if url is not None:
        studies = open_storage(folder, url, make=False).get_all_studies()
        there = [study.study_name for study in studies if ATTRIBUTE in study.user_attrs]
        rule = f"is not in {shown(url)}"
    else:
        there, rule = list_studies(runs), f"is not in {folder.parent}"
    hint = nearest(folder.name, there) or (
        f"here are: {', '.join(there)}" if there else "start one with nas search"
    )
    return UserError("no such study", [Problem("study", folder.name, rule, hint)])
