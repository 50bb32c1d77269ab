"""The embedded storage under parallel, killed and torn writers; other storages by URL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import optuna
import pytest

from studies.storage.addresses import shown
from studies.storage.journal import Embedded, lock_of
from studies.storage.opening import JOURNAL, explain_storage_errors, open_storage
from surgery.config.problems import UserError

ROOT = Path(__file__).resolve().parents[3]
WRITER = """
import sys
from pathlib import Path
import optuna
from studies.storage.opening import open_storage
optuna.logging.set_verbosity(optuna.logging.ERROR)
name, count = sys.argv[2], int(sys.argv[3])
study = optuna.load_study(study_name="s", storage=open_storage(Path(sys.argv[1]), None))
for index in range(count):
    trial = study.ask()
    trial.set_user_attr("who", [name, index])
    study.tell(trial, index)
    print(index, flush=True)
"""


def start_writer(folder: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def test_parallel_writers_one_killed(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(tmp_path, None))
    victim = start_writer(tmp_path, "victim", 100_000)
    others = [start_writer(tmp_path, name, 40) for name in ("a", "b")]
    assert victim.stdout is not None
    confirmed = [int(victim.stdout.readline()) for _ in range(15)]
    os.kill(victim.pid, signal.SIGKILL)
    confirmed += [int(line) for line in victim.stdout.read().splitlines()]
    victim.wait()
    while any(writer.poll() is None for writer in others):  # what a dashboard does
        reader = optuna.load_study(study_name="s", storage=open_storage(tmp_path, None))
        assert all(trial.number == index for index, trial in enumerate(reader.trials))
        time.sleep(0.02)
    assert [writer.returncode for writer in others] == [0, 0]
    done = [trial for trial in study.trials if trial.state.is_finished()]
    stored = {tuple(trial.user_attrs["who"]) for trial in done}
    assert {(name, index) for name in "ab" for index in range(40)} <= stored
    assert {("victim", index) for index in confirmed} <= stored
    assert len(study.trials) - len(done) <= 1


@pytest.mark.parametrize("cut", [1, 20, 5000])
def test_torn_last_line_is_mended(tmp_path: Path, cut: int) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(tmp_path, None))
    trial = study.ask()
    trial.set_user_attr("kept", 1)
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    with journal.open("ab") as file:
        file.write((b'{"op_code":8,"trial_id":0,' + b"x" * 6000)[:cut])
    reader = optuna.load_study(study_name="s", storage=open_storage(tmp_path, None))
    assert reader.trials[0].user_attrs == {"kept": 1}
    trial.set_user_attr("after", 2)
    assert reader.trials[0].user_attrs == {"kept": 1, "after": 2}
    assert journal.read_bytes().startswith(whole + b"{")
    assert all(line.endswith(b"}") for line in journal.read_bytes().splitlines())


def test_journal_torn_in_its_first_line(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b'{"op_code":0')
    study = optuna.create_study(study_name="s", storage=open_storage(tmp_path, None))
    assert study.trials == []


def test_lock_is_free_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):  # the second would wait for the first for ever
        with pytest.raises(FileNotFoundError), lock_of(tmp_path / "missing.log"):
            (tmp_path / "missing.log").open("rb")


def test_a_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    optuna.create_study(study_name="s", storage=open_storage(tmp_path, url)).ask()
    assert len(optuna.load_study(study_name="s", storage=open_storage(tmp_path, url)).trials) == 1


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "nosuchdb://me:secret@localhost/x",
        "sqlite:////proc/no/such/folder/a.db",
        "redis://localhost:1",
        "postgresql+nosuchdriver://me:secret@localhost/x",
    ],
)
def test_bad_urls_are_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="can't open the study's storage") as caught:
        open_storage(tmp_path, url)
    assert "--storage" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_damaged_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b"not json\nnot json either\n")
    with pytest.raises(UserError, match="journal is damaged"):
        open_storage(tmp_path, None)


def test_passwords_stay_out_of_messages() -> None:
    assert shown("mysql://me:s:e/c@host/db") == "mysql://me:***@host/db"
    assert shown("mysql://me:secret@host:1/db") == "mysql://me:***@host:1/db"
    assert shown("sqlite:///a@b:c.db") == "sqlite:///a@b:c.db"


def test_full_disks_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No space left") as caught, explain_storage_errors(tmp_path):
        Path("/dev/full").write_text("x")
    assert "finished trials are kept" in str(caught.value)


def test_a_batch_is_seen_here_at_once_and_elsewhere_as_a_whole(tmp_path: Path) -> None:
    own, other = (open_storage(tmp_path, None) for _ in range(2))
    assert isinstance(own, Embedded)
    study = optuna.create_study(study_name="s", storage=own)
    elsewhere = optuna.load_study(study_name="s", storage=other)
    before = (tmp_path / JOURNAL).read_bytes()
    with suppress(RuntimeError), own.file.batch():
        for index in range(3):
            trial = study.ask()
            trial.set_user_attr("index", index)
            assert study.trials[-1].user_attrs == {"index": index}
        assert elsewhere.trials == []
        assert (tmp_path / JOURNAL).read_bytes() == before  # what a writer that is killed here leaves
        raise RuntimeError
    for seen in (study, elsewhere, optuna.load_study(study_name="s", storage=open_storage(tmp_path, None))):
        assert [trial.user_attrs["index"] for trial in seen.trials] == [0, 1, 2]
    elsewhere.tell(0, 1.0)  # the lock is free again
    assert [trial.state.is_finished() for trial in study.trials] == [True, False, False]
