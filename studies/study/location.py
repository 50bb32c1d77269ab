"""The location of a study's trials, if they are not in the study's folder itself.

runs/NAME/  storage.url   the address, readable by its owner alone: it may hold a password
            study.json    the study's name and id in that storage, and the folder it was made in
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from studies.files.json_file import write_json
from studies.storage.addresses import absolute, file_of, is_relative
from surgery.config.json_source import read_object
from surgery.config.problems import Problem, UserError
from surgery.files.atomic import TEMPORARY, replacing

URL_FILE = "storage.url"
HOME_FILE = "study.json"


@dataclass(frozen=True)
class Home:
    """A study in another storage, as its folder records it."""

    study: str  # its name there
    id: str  # drawn when it was made; empty for one that an earlier version made
    folder: str  # where it was made

    @classmethod
    def read(cls, folder: Path) -> Home | None:
        """Read the file of a folder; None if there is none, as in studies that an earlier version made.

        Raises:
            UserError: it is damaged or not readable.
        """
        path = folder / HOME_FILE
        try:
            data = read_object(path)
            return cls(*(_text(data[item.name]) for item in fields(cls)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            rule = f"can't be read: {error}"
            hint = "remove it, and give the folder the name that the study has in its storage"
            raise UserError("can't open the study", [Problem(HOME_FILE, str(path), rule, hint)]) from error

    def write(self, folder: Path, url: str) -> None:
        """Write both files."""
        write_json(folder / HOME_FILE, asdict(self))
        write_private(folder / URL_FILE, url + "\n")

    def moved(self, folder: Path) -> tuple[str, bool]:
        """Return (what happened to the folder, whether it is a copy of another); empty text if nothing."""
        if (twin := self._twin(folder)) is not None:
            return f"is a copy of {twin}", True
        return ("was renamed" if folder.resolve().name != self.study else ""), False

    def _twin(self, folder: Path) -> Path | None:
        """Return the folder that this one is a copy of: where the study was made, or one next to it."""
        here = folder.resolve()
        original = Path(self.folder)
        if here == original:
            return None
        siblings = here.parent.iterdir() if self.id and here.parent.is_dir() else ()
        for path in (original, *sorted(siblings)):
            with suppress(OSError, UserError):
                twin = Home.read(path)
                if twin is not None and twin.id == self.id and not path.samefile(here):
                    return path
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a field is not text")
    return value


def stored_url(folder: Path) -> str | None:
    """Return the address of the storage that a study is in; None for the embedded one.

    Earlier versions stored the path of a database as it was typed. It is searched relative to the current
    folder and to those around the study.

    Raises:
        UserError: the file is damaged or not readable.
    """
    path = folder / URL_FILE
    try:
        url = path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        hint = "give the address with --storage"
        raise UserError("can't open the study", [Problem(URL_FILE, str(path), reason, hint)]) from error
    if not is_relative(url):
        return absolute(url)
    candidates = [absolute(url, base) for base in (Path.cwd(), *folder.absolute().parents[1::-1], folder)]
    return next((item for item in candidates if _is_file(item)), candidates[0])


def _is_file(url: str) -> bool:
    path = file_of(url)
    return path is not None and path.is_file()


def write_private(path: Path, text: str) -> None:
    """Write a file atomically that only its owner can read, for any umask."""
    with replacing(path, path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(text)
