"""Locks end with their process; those of deleted files are taken again; forks do not end their parent's."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from surgery.files.lock import Lock, is_held


def holder(path: Path) -> int:
    """Start a process that takes the lock and keeps it until it is killed, and wait until it has it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Lock(path, create=not path.is_dir()).acquire()
            os.write(writing, b"x")
            signal.pause()
        finally:
            os._exit(0)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    return child


@pytest.mark.parametrize("folder", [False, True])
def test_a_lock_ends_with_its_process(tmp_path: Path, folder: bool) -> None:
    path = tmp_path if folder else tmp_path / "a.lock"
    child = holder(path)
    lock = Lock(path, create=not folder)
    assert not lock.acquire(wait=False)
    assert is_held(path) is True
    with lock.attempt() as free:
        assert not free
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert is_held(path) is False
    with lock.attempt() as free:
        assert free
        assert is_held(path) is True
    with lock:
        assert not Lock(path, create=False).acquire(wait=False)
    assert is_held(path) is False


def test_a_missing_file(tmp_path: Path) -> None:
    assert is_held(tmp_path / "a.lock") is None
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "a.lock", create=False).acquire()
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "none" / "a.lock").acquire()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_was_deleted_is_taken_on_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    first, second = Lock(path), Lock(path)
    first.acquire()
    waiting = threading.Thread(target=second.acquire)
    waiting.start()
    path.unlink()
    first.release()
    waiting.join()
    assert is_held(path) is True
    second.release()


@pytest.mark.parametrize("releases", [False, True])
def test_a_forked_child_neither_ends_nor_keeps_its_parents_lock(tmp_path: Path, releases: bool) -> None:
    path = tmp_path / "a.lock"
    lock = Lock(path)
    lock.acquire()
    ready, stop = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(stop[1])
        if releases:
            lock.release()
        os.write(ready[1], b"x")
        os.read(stop[0], 1)  # until the parent closes its end
        os._exit(0)
    os.read(ready[0], 1)
    assert is_held(path) is True
    lock.release()
    assert is_held(path) is False
    for handle in (*stop, *ready):
        os.close(handle)
    os.waitpid(child, 0)
