"""Addresses of databases: checked, made absolute, and shown without their secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote

from surgery.config.problems import Problem, UserError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

STORAGE = "NAS_STORAGE"  # environment variable: the storage where neither --storage nor a folder names one
HIDDEN = "***"
EMBEDDED_HINT = "leave --storage out for the embedded storage"
_SECRET = re.compile(r"pass|pwd|secret|token|odbc_connect", re.IGNORECASE)  # parameters of a query
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TRUE = ("true", "yes", "on", "y", "t", "1")  # as SQLAlchemy reads the parameter `uri`
_LONG = 6  # characters; a shorter secret is only replaced as a whole word
_seen: set[str] = set()  # secrets of the addresses that this process has read


def absolute(url: str, folder: Path | None = None) -> str:
    """Check an address and return it; the path of a file is made absolute, from `folder` or the current one.

    Raises:
        UserError: it is not an address, its studies would be lost with this process, or no longer supported.
    """
    from sqlalchemy.exc import ArgumentError

    _remember(url)
    try:
        if _CONTROL.search(url):
            raise ArgumentError("it holds a line break or another control character")
        if _ambiguous(url):
            raise ArgumentError("an @ in a name or a password is written %40")
        parsed = _parse(url)
        scheme = parsed.drivername.partition("+")[0]
        if scheme in ("redis", "rediss", "unix"):
            rule = "Optuna keeps no studies in Redis any more"
            raise _refused(url, rule, f"use PostgreSQL, MySQL or SQLite, or {EMBEDDED_HINT}")
        if scheme != "sqlite":
            return url
        if parsed.host or parsed.username or parsed.port:
            rule, hint = "an SQLite address has no host", "a path follows three slashes: sqlite:///studies.db"
            raise _refused(url, rule, hint)
        database = _sqlite_file(url, parsed, folder or Path.cwd())
    except (ArgumentError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        hint = f"such as postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///FILE; or {EMBEDDED_HINT}"
        reason = redacted(str(error).partition("\n")[0])
        raise _refused(url, f"is not a database address: {reason}", hint) from None
    if database == parsed.database:
        return url
    return parsed.set(database=database).render_as_string(hide_password=False)


def is_relative(url: str) -> bool:
    """Return whether an address names a file relative to the current folder."""
    return absolute(url, Path("/a")) != absolute(url, Path("/b"))


def file_of(url: str) -> Path | None:
    """Return the database file of an absolute SQLite address; None for a server's."""
    parsed = _parse(url)
    if parsed.drivername.partition("+")[0] != "sqlite":
        return None
    database = parsed.database or ""
    if not _is_uri(parsed):
        return Path(database)
    return Path(unquote(re.sub(r"^file:(//(localhost)?(?=/))?", "", database)))


def same(first: str, second: str) -> bool:
    """Return whether two addresses are equal after parsing, so that they lead to the same database."""
    return _parse(first) == _parse(second)


def same_but_secrets(first: str, second: str) -> bool:
    """Return whether two addresses differ in secrets at most."""
    return shown(first) == shown(second)


def shown(url: str) -> str:
    """Return an address for messages: `mysql://me:secret@host/db` -> `mysql://me:***@host/db`.

    Secrets in the query, such as `?password=`, are hidden as well.
    """
    from sqlalchemy.exc import ArgumentError

    _remember(url)
    scheme, mark, rest = url.partition("://")
    try:
        parsed = _parse(url)
        if _ambiguous(url):
            raise ValueError
    except (ArgumentError, ValueError):
        return f"{scheme}{mark}{HIDDEN}" if "@" in rest or "?" in rest else url
    secrets = [key for key in parsed.query if _SECRET.search(key)]
    if parsed.password is None and not secrets:
        return url
    hidden = parsed.set(password=HIDDEN) if parsed.password is not None else parsed
    hidden = hidden.update_query_dict(dict.fromkeys(secrets, HIDDEN))
    return hidden.render_as_string(hide_password=False).replace(quote_plus(HIDDEN), HIDDEN)


def redacted(text: str) -> str:
    """Return the text without the secrets of any address that this process has read."""
    for secret in sorted(_seen, key=len, reverse=True):
        bare = re.escape(secret)
        if len(secret) < _LONG:
            bare = rf"(?<![A-Za-z0-9]){bare}(?![A-Za-z0-9])"
        text = re.sub(bare, HIDDEN, text)
    return text


def _ambiguous(url: str) -> bool:
    """Return whether it is not clear where a password ends."""
    rest = url.partition("://")[2].partition("?")[0]
    return not rest.startswith("/") and rest.count("@") > 1


def _parse(url: str) -> URL:
    from sqlalchemy.engine import make_url

    return make_url(url)


def _remember(url: str) -> None:
    """Remember the secrets of an address in every spelling, for `redacted`."""
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = _parse(url)
    except (ArgumentError, ValueError):
        if match := re.search(r"://[^@]*?:(.*)@", url):
            _seen.add(match[1])
        return
    values = [str(parsed.password)] if parsed.password else []
    for key, value in parsed.query.items():
        if _SECRET.search(key):
            values += [value] if isinstance(value, str) else value
    for value in filter(None, values):
        _seen.update((value, quote(value, safe=""), quote_plus(value)))
    if match := re.search(r"://[^:/@]*:([^?]*)@", url):
        _seen.add(match[1])  # as it was typed
    _seen.discard("")


def _is_uri(parsed: URL) -> bool:
    return str(parsed.query.get("uri", "")).lower() in _TRUE


def _sqlite_file(url: str, parsed: URL, folder: Path) -> str:
    """Return the absolute path, or `file:` address, of an SQLite database."""
    database = parsed.database or ""
    is_uri = database.startswith("file:")
    if is_uri and not _is_uri(parsed):
        raise _refused(url, "names a file: address without uri=true", "add it to the query, or give a path")
    path = re.sub(r"^file:(//(localhost)?(?=/|$))?", "", database) if is_uri else database
    query = {key: str(value).lower() for key, value in parsed.query.items()}
    in_memory = query.get("mode") == "memory" or query.get("vfs") == "memdb"
    if unquote(path) in ("", ":memory:") or in_memory:
        rule = "is a database in memory, which the workers can't reach: each is a process of its own"
        raise _refused(url, rule, f"name a file, such as sqlite:///studies.db, or {EMBEDDED_HINT}")
    if not is_uri:
        return os.path.abspath(folder / path)
    return database if path.startswith("/") else f"file:{quote(str(folder.absolute()))}/{path}"


def _refused(url: str, rule: str, hint: str) -> UserError:
    return UserError("can't open the study's storage", [Problem("storage", shown(url), rule, hint)])
