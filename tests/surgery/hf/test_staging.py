"""A folder is written whole or not at all, also when its writer is killed: real processes, real kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from surgery.config.problems import UserError
from surgery.hf.configuration import MODEL_TYPE
from surgery.hf.staging import check_target, staged

Patch = Callable[[], None]
TEMPLATES = "additional_chat_templates"


def write(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": MODEL_TYPE, "text": text}))
    (folder / TEMPLATES).mkdir()
    (folder / TEMPLATES / "a").write_text(text)


def content(folder: Path) -> str:
    text = str(json.loads((folder / "config.json").read_text())["text"])
    assert (folder / TEMPLATES / "a").read_text() == text
    return text


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def writer(out: Path, prepare: Patch, inside: Patch = lambda: None) -> int:
    """The exit code of a process that replaces `out` and may be killed on the way."""
    child = os.fork()
    if child == 0:
        try:
            prepare()
            with staged(out, overwrite=True) as folder:
                write(folder, "new")
                inside()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_call(name: str, number: int, *, before: bool) -> Patch:
    """Dies at the call with this number of a function of `os` or `shutil`."""
    module = os if hasattr(os, name) else shutil
    real = getattr(module, name)
    calls = 0

    def patched(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number and before:
            die()
        result = real(*args, **options)
        if calls == number:
            die()
        return result

    return lambda: setattr(module, name, patched)


@pytest.mark.parametrize("stood", [False, True])
@pytest.mark.parametrize(
    ("prepare", "inside", "survives"),
    [
        (lambda: None, die, "old"),
        (at_call("replace", 1, before=True), lambda: None, "old"),
        (at_call("replace", 1, before=False), lambda: None, "old"),  # without an old one it is in place
        (at_call("replace", 2, before=True), lambda: None, "old"),
        (at_call("replace", 2, before=False), lambda: None, "new"),
        (at_call("mkdir", 1, before=False), lambda: None, "old"),
        (at_call("rmtree", 1, before=True), lambda: None, "new"),
    ],
)
def test_a_killed_writer(tmp_path: Path, stood: bool, prepare: Patch, inside: Patch, survives: str) -> None:
    out, other = tmp_path / "model", tmp_path / ".model.x.nas-abcdefgh.partial"
    other.mkdir()  # of the folder `model.x`
    if stood:
        out.mkdir()
        write(out, "old")
    code = writer(out, prepare, inside)
    check_target(out, overwrite=True)
    if stood:
        assert code == -signal.SIGKILL
        assert content(out) == survives
    else:  # fewer calls: some writers live to their end
        assert code in (0, -signal.SIGKILL)
        assert not out.exists() or content(out) == "new"
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, *(["model"] if out.exists() else [])])
    with staged(out, overwrite=True) as folder:
        write(folder, "newest")
    assert content(out) == "newest"
    assert sorted(os.listdir(tmp_path)) == [other.name, "model"]


def test_living_writers_keep_their_folders(tmp_path: Path) -> None:
    """Two that write the same folder at once: the later one is refused, or replaces it, as it asked for."""
    out = tmp_path / "model"
    with staged(out) as first:
        write(first, "first")
        with staged(out) as second:
            write(second, "second")
            assert first.is_dir()
            assert second != first
        assert content(out) == "second"
        check_target(out, overwrite=True)
        assert content(first) == "first"
        shutil.rmtree(out)
    assert content(out) == "first"
    assert os.listdir(tmp_path) == ["model"]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / ".model.file.partial").touch()
    (tmp_path / ".model.link.old").symlink_to(tmp_path)
    (tmp_path / "model.partial").mkdir()
    (tmp_path / ".model.kept").mkdir()
    for name in (".model.original.old", ".model.20261130.partial", ".model.nas-mine.old"):
        (tmp_path / name).mkdir()  # a user's own copies
    before = sorted(os.listdir(tmp_path))
    check_target(tmp_path / "model")
    assert sorted(os.listdir(tmp_path)) == before


def test_an_old_model_that_is_back_is_not_overwritten_unasked(tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    write(out, "old")
    assert writer(out, at_call("replace", 1, before=False)) == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(UserError, match="not empty"):
        check_target(out)
    assert content(out) == "old"
