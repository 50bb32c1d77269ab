"""Addresses of databases: absolute, on disk, and never shown with their secrets."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import create_engine, make_url

from studies.storage import addresses
from studies.storage.addresses import absolute, file_of, is_relative, redacted, same, shown
from studies.storage.opening import explain_storage_errors, open_storage
from studies.study.location import stored_url, write_private
from studies.workers import supervisor
from studies.workers.supervisor import Supervisor
from surgery.config.problems import UserError
from tests.studies.conftest import MakeStudy


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///st.db",
        "sqlite+pysqlite:///st.db",
        "sqlite:///./st.db",
        "sqlite:///sub/../st.db",
        "sqlite:///st.db?timeout=10",
        "sqlite:///file:st.db?uri=true",
        "sqlite:///file:st.db?mode=rwc&uri=true",
    ],
)
def test_a_relative_file_is_made_absolute(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fixed = absolute(url)
    assert is_relative(url)
    assert not is_relative(fixed)
    assert absolute(fixed) == fixed
    monkeypatch.chdir("/")
    with create_engine(fixed).connect() as connection:  # what SQLite itself makes of it
        connection.exec_driver_sql("create table t (x)")
    assert [path.name for path in tmp_path.iterdir()] == ["st.db"]
    assert file_of(fixed) == tmp_path / "st.db"
    assert make_url(fixed).query == make_url(url).query
    assert same(fixed, absolute(url, tmp_path))


@pytest.mark.parametrize(
    "url", ["sqlite:////data/st.db", "mysql+pymysql://me:a%40b@host/db?charset=utf8", "postgresql:///db"]
)
def test_other_addresses_stay_as_they_are(url: str) -> None:
    assert absolute(url) == url
    assert not is_relative(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite+pysqlite://",
        "sqlite:///:memory:",
        "sqlite:///:memory:?cache=shared",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file::memory:",
        "sqlite:///file:name?mode=memory&uri=true",
        "sqlite:///file:/name?vfs=memdb&uri=true",
        "sqlite:///file:?uri=true",
    ],
)
def test_databases_in_memory_are_refused(url: str, tmp_path: Path) -> None:
    for attempt in (absolute, lambda url: open_storage(tmp_path, url)):
        with pytest.raises(UserError, match=r"in memory|without uri=true"):
            attempt(url)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("redis://me:hushhush@host:1/0", "no studies in Redis"),
        ("rediss://host", "no studies in Redis"),
        ("team.db", "not a database address"),
        ("", "not a database address"),
        ("sqlite://st.db", "has no host"),
        ("mysql://me:hushhush@host:port/db", "not a database address"),
        ("sqlite:////a\nb.db", "control character"),
        ("mysql://me:hushhush@more@host/db", "written %40"),
    ],
)
def test_what_is_no_address_is_refused(url: str, rule: str) -> None:
    with pytest.raises(UserError, match=rule) as caught:
        absolute(url)
    assert "hushhush" not in str(caught.value)


SECRETS = [
    ("mysql://me:hush@host:1/db", "mysql://me:***@host:1/db"),
    ("postgresql+psycopg://me:p%40ss%2Fw%20rd@h/db", "postgresql+psycopg://me:***@h/db"),
    ("postgresql://me:p@hush@h/db", "postgresql://***"),
    ("postgresql://h/db?user=me&password=hush", "postgresql://h/db?password=***&user=me"),
    ("mysql://h/db?passwd=hush&ssl_ca=/ca.pem", "mysql://h/db?passwd=***&ssl_ca=/ca.pem"),
    (
        "postgresql://me:hush@h/db?sslkey=k.pem&sslpassword=keyhush",
        "postgresql://me:***@h/db?sslkey=k.pem&sslpassword=***",
    ),
    ("mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3Dhush", "mssql+pyodbc:///?odbc_connect=***"),
]


@pytest.mark.parametrize(("url", "expected"), SECRETS)
def test_secrets_are_hidden(url: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_seen", set())
    assert shown(url).replace("%2F", "/") == expected
    assert redacted(f'password authentication failed: "{url}"').count("hush") == 0
    parsed = make_url(url)
    for secret in filter(None, [parsed.password, parsed.query.get("password"), parsed.query.get("passwd")]):
        assert str(secret) not in redacted(f"connection to ('{secret}') refused")


def test_short_passwords_do_not_garble_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_seen", set())
    shown("mysql://me:a@host/db")
    assert redacted("a table: a=a") == "*** table: ***=***"
    assert redacted("database has no table") == "database has no table"


def test_errors_of_a_driver_do_not_show_the_address(tmp_path: Path) -> None:
    url = "nosuchdb://me:veryhush@host/db"
    with pytest.raises(UserError) as caught:
        open_storage(tmp_path, url)
    assert "veryhush" not in str(caught.value)
    cause = RuntimeError(f"can't connect to {url}")
    with pytest.raises(UserError) as caught, explain_storage_errors(tmp_path):
        raise StorageInternalError("x") from cause
    assert "***" in str(caught.value)
    assert "veryhush" not in str(caught.value)


def test_braces_are_no_template(tmp_path: Path) -> None:
    open_storage(tmp_path, f"sqlite:///{tmp_path}/{{a}}.db")
    assert (tmp_path / "{a}.db").is_file()


def test_the_address_is_in_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "storage.url"
    path.write_text("old")
    path.chmod(0o644)
    for mask in (0, 0o077, 0o777):
        before = os.umask(mask)
        try:
            write_private(path, "mysql://me:hush@host/db\n")
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stored_url(tmp_path) == "mysql://me:hush@host/db"
    assert [item.name for item in tmp_path.iterdir()] == ["storage.url"]


def test_a_study_keeps_its_address_to_its_owner(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(url=f"sqlite:///{tmp_path / 'a.db'}")
    assert stat.S_IMODE((study.folder / "storage.url").stat().st_mode) == 0o600


def test_workers_get_the_address_by_their_environment(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], dict[str, Any]]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: calls.append((command, options)))
    monkeypatch.setenv(supervisor.STORAGE, "mysql://another")
    study = make_study()
    for url in ("postgresql://me:hush@host/db", None):
        study.url = url
        watched = Supervisor(study, workers=1, target=1, device="cpu")
        watched.log = None  # type: ignore[assignment]
        watched._spawn(0)
        command, options = calls.pop()
        assert not any("postgresql" in part or "hush" in part for part in command)
        assert options["env"].get(supervisor.STORAGE) == url
