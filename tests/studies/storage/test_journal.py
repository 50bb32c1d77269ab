"""The embedded storage passes Optuna's own tests of storages, and is safe for threads and processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

from studies.storage import journal_lines
from studies.storage.journal import Embedded, JournalFile, lock_of
from surgery.config.problems import UserError

WORKERS, RECORDS = 10, 20


class TestOptunasOwn(StorageTestCase):
    """Optuna's contract for storages, on a journal file of ours."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Embedded:
        return Embedded(tmp_path / "journal.log")


@pytest.fixture
def journal(tmp_path: Path) -> JournalFile:
    return JournalFile(tmp_path / "journal.log")


def append(journal: JournalFile, name: object) -> None:
    for index in range(RECORDS):
        journal.append_logs([{"name": name, "index": index}])


def in_order(logs: list[dict[str, Any]], names: range) -> bool:
    """Return whether every writer's entries are there once, in their order."""
    return all([log["index"] for log in logs if log["name"] == name] == [*range(RECORDS)] for name in names)


def joined(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # a deadlock is ended by the limit of the test


def test_threads_share_one_journal(journal: JournalFile) -> None:
    """Optuna's test_concurrent_append_logs_for_multi_threads, and what they wrote."""
    joined([threading.Thread(target=append, args=(journal, n), daemon=True) for n in range(WORKERS)])
    logs = list(journal.read_logs(0))
    assert len(logs) == WORKERS * RECORDS
    assert in_order(logs, range(WORKERS))


def test_processes_share_one_journal(journal: JournalFile) -> None:
    """Optuna's test_concurrent_append_logs_for_multi_processes: forked, with what a fork copies."""
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as pool:
        list(pool.map(append, [journal] * 4, range(4)))
    assert in_order(list(journal.read_logs(0)), range(4))


def test_readers_beside_writers(journal: JournalFile) -> None:
    """Threads that read from any entry on see what was written, from there on, in one order."""
    writers = [threading.Thread(target=append, args=(journal, n), daemon=True) for n in range(3)]
    seen: list[tuple[int, list[dict[str, Any]]]] = []

    def reading() -> None:
        start = 0
        while any(writer.is_alive() for writer in writers):
            logs = list(journal.read_logs(start))
            seen.append((start, logs))
            start = max(0, (start + len(logs)) - 5)

    for writer in writers:
        writer.start()
    joined([threading.Thread(target=reading, daemon=True) for _ in range(3)])
    everything = list(journal.read_logs(0))
    assert len(everything) == 3 * RECORDS
    assert all(everything[start : start + len(logs)] == logs for start, logs in seen)


def test_a_batch_holds_other_threads_back(journal: JournalFile) -> None:
    journal.append_logs([{"n": 0}])
    with ThreadPoolExecutor(1) as pool:
        with journal.batch():
            journal.append_logs([{"n": 1}])
            other: Future[None] = pool.submit(journal.append_logs, [{"n": 3}])
            journal.append_logs([{"n": 2}])
            assert [log["n"] for log in journal.read_logs(0)] == [0, 1, 2]
            assert [log["n"] for log in journal.read_logs(2)] == [2]
            assert not other.done()
            reader = ThreadPoolExecutor(1)
            assert [log["n"] for log in reader.submit(lambda: list(journal.read_logs(0))).result(30)] == [0]
        other.result(30)
        reader.shutdown()
    assert [log["n"] for log in journal.read_logs(0)] == [0, 1, 2, 3]


def test_a_batch_is_not_reentrant_and_its_lock_is_free_afterwards(journal: JournalFile) -> None:
    with pytest.raises(AssertionError, match="reentrant"), journal.batch(), journal.batch():
        pass

    def fails() -> None:
        with journal.batch():
            journal.append_logs([{"n": 0}])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    joined([threading.Thread(target=append, args=(journal, "after"), daemon=True)])
    assert len(list(JournalFile(journal.path).read_logs(0))) == 1 + RECORDS


def test_threads_share_a_study_with_batches(tmp_path: Path) -> None:
    """One thread batches, others ask and tell: nothing is lost, and each trial is whole to who reads it."""
    storage = Embedded(tmp_path / "journal.log")
    study = optuna.create_study(storage=storage)

    def batches() -> None:
        for index in range(10):
            with storage.batch():
                trial = study.ask()
                trial.set_user_attr("batch", index)
                study.tell(trial, index)

    def singles() -> None:
        for _ in range(10):
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            study.tell(trial, 0.0)

    def reading() -> None:
        for _ in range(30):
            for trial in study.get_trials():
                assert "batch" not in trial.user_attrs or trial.state == TrialState.COMPLETE

    failures: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, failures.append
    try:
        joined([threading.Thread(target=run, daemon=True) for run in (batches, batches, singles, reading)])
    finally:
        threading.excepthook = before
    assert not failures
    again = optuna.load_study(study_name=study.study_name, storage=Embedded(tmp_path / "journal.log"))
    assert [trial.number for trial in again.trials] == list(range(30))
    assert {trial.state for trial in again.trials} == {TrialState.COMPLETE}


def test_lock_is_free_although_a_forked_child_lives(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with lock_of(tmp_path / "journal.log"):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent closes its end
            os._exit(0)
    try:
        taken = threading.Thread(
            target=lambda: JournalFile(tmp_path / "journal.log").append_logs([{}]), daemon=True
        )
        joined([taken])
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


def test_pickled_to_another_process(tmp_path: Path) -> None:
    storage = Embedded(tmp_path / "journal.log")
    study = optuna.create_study(storage=storage, study_name="s")
    study.tell(study.ask(), 1.0)
    copy = pickle.loads(pickle.dumps(storage))
    with copy.batch():
        other = optuna.load_study(study_name="s", storage=copy)
        other.tell(other.ask(), 2.0)
    assert [trial.value for trial in study.trials] == [1.0, 2.0]


def test_optunas_own_backend_reads_it(tmp_path: Path) -> None:
    """And may append, as Optuna Dashboard does when it is given the file."""
    path = tmp_path / "journal.log"
    ours = optuna.create_study(storage=Embedded(path), study_name="s")
    with ours._storage.batch():  # type: ignore[attr-defined]
        ours.tell(ours.ask(), 1.0)
        ours.set_user_attr("why", "ü")
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    theirs = optuna.load_study(study_name="s", storage=storage)
    assert theirs.user_attrs == {"why": "ü"}
    theirs.tell(theirs.ask(), 2.0)
    ours.tell(ours.ask(), 3.0)
    again = optuna.load_study(study_name="s", storage=Embedded(path))
    assert [trial.value for trial in again.trials] == [1.0, 2.0, 3.0]


@pytest.fixture
def batches(journal: JournalFile) -> list[int]:
    """A journal of one line, a batch of three, a line, a batch of two; bytes before each and in all."""
    ends = [0]
    for texts in (1, 3, 1, 2):
        with journal.batch():
            for index in range(texts):
                journal.append_logs([{"batch": len(ends), "index": index, "text": "é" * 10}])
        ends.append(journal.path.stat().st_size)
    return ends


def test_cut_anywhere_it_ends_with_a_whole_batch(journal: JournalFile, batches: list[int]) -> None:
    """For a reader, and for the writer that comes next."""
    text = journal.path.read_bytes()
    for size in range(len(text) + 1):
        journal.path.write_bytes(text[:size])
        whole = max(end for end in batches if end <= size)
        logs = list(JournalFile(journal.path).read_logs(0))
        assert len(logs) == text[:whole].count(b"\n")
        JournalFile(journal.path).append_logs([{"after": size}])
        assert journal.path.read_bytes().startswith(text[:whole])
        assert list(JournalFile(journal.path).read_logs(0)) == [
            *logs,
            {"after": size, "chain": logs_end(journal)},
        ]


def logs_end(journal: JournalFile) -> int:
    """The checksum in the last line."""
    return int(journal.path.read_bytes().rpartition(b":")[2].strip(b"}\n"))


@pytest.mark.parametrize("block", [1, 7, 100, 100_000])
def test_the_end_is_found_whatever_is_read_at_once(
    journal: JournalFile, batches: list[int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_lines, "BLOCK_BYTES", block)
    text = journal.path.read_bytes()
    for size in range(0, len(text) + 1, 13):
        journal.path.write_bytes(text[:size])
        with journal.path.open("rb+") as file:
            journal_lines.trim(file)
        assert journal.path.read_bytes() == text[: max(end for end in batches if end <= size)]


Damage = Callable[[list[bytes]], list[bytes]]
DAMAGE: dict[str, Damage] = {
    "edited": lambda lines: [*lines[:3], lines[3].replace(b"index", b"inbex"), *lines[4:]],
    "swapped": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "duplicated": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "removed": lambda lines: [*lines[:3], *lines[4:]],
    "first removed": lambda lines: lines[1:],
    "an older line": lambda lines: [*lines, lines[0]],
    "two swapped batches": lambda lines: [lines[0], lines[4], *lines[1:4], *lines[5:]],
    "not UTF-8": lambda lines: [*lines[:3], b'{"a":"\xff\xfe"}\n', *lines[4:]],
    "NULs": lambda lines: [*lines[:3], bytes(50) + b"\n", *lines[4:]],
    "deep": lambda lines: [*lines[:3], b"[" * 100_000 + b"]" * 100_000 + b"\n", *lines[4:]],
    "deep objects": lambda lines: [*lines[:3], b'{"a":' * 100_000 + b"0" + b"}" * 100_000 + b"\n"],
    "a list": lambda lines: [*lines[:3], b"[1]\n", *lines[4:]],
    "half a pair": lambda lines: [*lines[:3], b'{"a":"\\ud800"}\n', *lines[4:]],
    "a huge number": lambda lines: [*lines[:3], b'{"a":' + b"9" * 9999 + b"}\n", *lines[4:]],
    "empty": lambda lines: [*lines[:3], b"\n", *lines[3:]],
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_with_file_and_line(journal: JournalFile, batches: list[int], kind: str) -> None:
    lines = journal.path.read_bytes().splitlines(keepends=True)
    changed = DAMAGE[kind](lines)
    journal.path.write_bytes(b"".join(changed))
    first = next((n for n, line in enumerate(changed) if n >= len(lines) or line != lines[n]), len(changed))
    with pytest.raises(UserError) as caught:
        list(JournalFile(journal.path).read_logs(0))
    problem = caught.value.problems[0]
    assert problem.field == str(journal.path)
    assert problem.line == first + 1
    assert "--repair" in problem.hint


def test_a_journal_that_shrank_is_told(journal: JournalFile, batches: list[int]) -> None:
    list(journal.read_logs(0))
    os.truncate(journal.path, batches[1])
    with pytest.raises(UserError, match="replaced while it was in use"):
        list(journal.read_logs(7))


def test_a_failed_write_leaves_nothing(
    journal: JournalFile, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    text = journal.path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"), journal.batch():
            journal.append_logs([{"lost": 1}, {"lost": 2}])
    assert journal.path.read_bytes() == text
    journal.append_logs([{"kept": 1}])
    assert [log.get("kept") for log in journal.read_logs(7)] == [1]
