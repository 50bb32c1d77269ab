"""A file is replaced when its successor is complete, or not at all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from surgery.files.atomic import replacing


@pytest.mark.parametrize("name", [None, ".other"])
@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path, name: str | None, durable: bool) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path, tmp_path / name if name else None, durable=durable) as temporary:
        assert temporary == tmp_path / (name or "a.json.tmp")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("written", [False, True])
def test_a_failed_writer_leaves_what_was_there(tmp_path: Path, written: bool) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            if written:
                temporary.write_text("ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    child = os.fork()
    if child == 0:
        with replacing(path) as temporary:
            temporary.write_text("a long half of a text")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
