"""A study that can only be read: on a read-only disk, or another user's. All reading commands work."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from surgery.config.problems import UserError

Nas = Callable[..., Result]
NOBODY = 65534


@pytest.fixture(scope="module")
def folder(study_folder: Path) -> Iterator[Path]:
    """A copy that no user may write, in a folder that every user may enter."""
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    copy = Path(shutil.copytree(study_folder, base / study_folder.name))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield copy
    for path in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
        path.chmod(0o755)
    shutil.rmtree(base)


def unprivileged(run: Callable[[], Any]) -> Any:
    """The value of `run` in a process that obeys file modes: root does not."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.write(writing, json.dumps(run()).encode())
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "it died"
    return json.loads(text)


def result_of(nas: Nas, *words: object) -> tuple[int, str, str]:
    result = nas(*words)
    error = str(result.exception) if isinstance(result.exception, UserError) else ""
    return result.exit_code, result.stdout, error


@pytest.mark.parametrize(
    "words",
    [
        ("show", "{}"),
        ("show", "{}", "--json"),
        ("show", "{}", 0),
        ("front", "{}"),
        ("front", "{}", "--all", "--json"),
        ("front", "{}", "--csv", "-"),
        ("front", "{}", "--baselines"),
        ("pick", "{}"),
        ("pick", "{}", "--json"),
        ("doctor", "{}"),
    ],
    ids=lambda words: " ".join(map(str, words)).replace(" {}", ""),
)
def test_reading(nas: Nas, folder: Path, words: tuple[object, ...]) -> None:
    filled = [str(word).format(folder) for word in words]
    expected = result_of(nas, *filled)  # as root, which may write; it also loads what the command imports
    assert expected[0] == 0
    result = unprivileged(lambda: result_of(nas, *filled))
    assert result[0] == 0, result
    if words[0] == "doctor":
        assert "can't be written" in result[1]
    else:
        assert tuple(result) == expected


def test_a_pick_that_can_not_be_recorded_says_so_in_a_line(nas: Nas, folder: Path) -> None:
    nas("pick", folder)  # loads what the command imports

    def pick() -> list[object]:
        result = nas("pick", folder)
        return [result.exit_code, result.stderr]

    code, notes = unprivileged(pick)
    assert code == 0
    (line,) = [line for line in notes.splitlines() if "warning" in line]
    assert "the pick could not be recorded in the study" in line
    assert "Permission denied" in line


@pytest.mark.parametrize(
    "words", [("audit", "{}"), ("refine", "{}", "--device", "cpu"), ("doctor", "{}", "--repair")]
)
def test_writing_is_refused_with_the_reason(nas: Nas, folder: Path, words: tuple[object, ...]) -> None:
    filled = [str(word).format(folder) for word in words]
    code, _, error = unprivileged(lambda: result_of(nas, *filled))
    assert code == 2, error
    assert "Permission denied" in error
    assert str(folder) in error


def test_the_dashboard_serves_it(folder: Path) -> None:
    """Without writing its notes, and says so."""
    import encodings.idna  # noqa: F401  before the rights to read them may be gone
    from urllib.request import urlopen

    import optuna_dashboard  # noqa: F401

    from studies.reporting.dashboard import Dashboard
    from studies.study import Study

    def serve() -> list[object]:
        import threading

        dashboard = Dashboard(Study.open(str(folder)), "127.0.0.1", 0)
        thread = threading.Thread(target=dashboard.serve, daemon=True)
        thread.start()
        with urlopen(f"http://127.0.0.1:{dashboard.port}/api/studies") as answer:
            status, names = (
                answer.status,
                [item["study_name"] for item in json.load(answer)["study_summaries"]],
            )
        dashboard.server.shutdown()
        thread.join()
        return [status, names]

    assert unprivileged(serve) == [200, [folder.name]]
