"""The live view: its counts, pace and units; in a real terminal, its screen and its answer to Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas_cli.render.live import screen
from nas_cli.render.screen import console, speed
from studies.study import Study
from studies.study.trial_record import front_records
from studies.workers.progress import Snapshot
from tests.nas_cli.conftest import MICRO

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study(study_folder: Path) -> Study:
    return Study.open(str(study_folder))


def snapshot(study: Study, **changes: Any) -> Snapshot:
    records = study.records()
    known = Snapshot(
        records=records, front=front_records(records, study.space.objectives), workers=[], elapsed=120.0,
        target=12, trained_here=6,
    )  # fmt: skip
    return replace(known, **changes)


def training(done: float, tokens_per_s: float = 37.0) -> dict[str, Any]:
    return {
        "worker": "here-1", "state": "training", "trial": 7, "line": "FF", "loss": 5.0, "done": done,
        "tokens_per_s": tokens_per_s,
    }  # fmt: skip


def drawn(study: Study, now: Snapshot, width: int = 120) -> str:
    before = console._width
    console.width = width
    try:
        with console.capture() as capture:
            console.print(screen(study, now))
    finally:
        console._width = before
    return capture.get()


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0 tok/s"), (37.4, "37 tok/s"), (999, "999 tok/s"), (4210, "4.2k tok/s"), (1.25e6, "1.2M tok/s")],
)
def test_speeds_have_the_unit_that_fits(rate: float, text: str) -> None:
    assert speed(rate) == text


def test_time_left_is_that_of_the_pace_shown(study: Study) -> None:
    """Six trainings and a half in 120 s, and five and a half to go."""
    now = snapshot(study, workers=[training(0.5)])
    assert now.trials_per_hour == pytest.approx(3600 * 6.5 / 120)
    assert now.eta == pytest.approx(5.5 / now.trials_per_hour * 3600)


def test_what_precedes_the_first_training_says_nothing_about_the_pace(study: Study) -> None:
    """The replacements of a pretrained model are fitted and scored for 110 s; then one design takes 10 s."""
    now = snapshot(study, workers=[training(0.0)], trained_here=1, prepared=110.0)
    assert now.trials_per_hour == pytest.approx(360)
    assert now.eta == pytest.approx(10 * (12 - now.ended))


def test_time_left_is_at_least_that_of_the_slowest_run(study: Study) -> None:
    """Two workers with the last two runs: one has a tenth behind it, the other almost all."""
    now = snapshot(study, workers=[training(0.1), training(0.9)], target=8)
    each = 120 / 7 * 2  # seconds of a run in one of two workers
    assert now.eta == pytest.approx(0.9 * each)


def test_no_time_left_is_made_up(study: Study) -> None:
    assert snapshot(study, trained_here=0, workers=[training(0.2)]).eta is None
    assert snapshot(study, target=None, workers=[training(0.9)]).eta is None
    assert "time left not known yet" in drawn(study, snapshot(study, trained_here=0, workers=[training(0.1)]))


def test_counts_are_by_state_and_add_up(study: Study) -> None:
    records = study.records()
    trained = [record for record in records if record.state == "trained"]
    changed = {
        trained[0].number: replace(trained[0], state="paused", values=None),
        trained[1].number: replace(trained[1], state="failed", values=None),
    }
    now = snapshot(
        study, records=[changed.get(record.number, record) for record in records], workers=[training(0.5)]
    )
    text = " ".join(drawn(study, now).split())
    assert f"{len(trained)} of 12: {len(trained) - 2} trained + 1 paused + 1 failed" in text
    assert f"of {len(trained) - 2} trained" in text  # the same word and number above the front
    assert "37 tok/s" in text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_screen_fits_every_width(study: Study, width: int) -> None:
    lines = drawn(study, snapshot(study, workers=[training(0.5), training(0.1)]), width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= max(console.height, 24)


def read(terminal: int, until: str) -> str:
    """Return what the terminal shows until a text is there; the test's own limit ends what hangs."""
    text = ""
    while until not in text:
        try:
            text += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # its end
            break
    assert until in text, text[-2000:]
    return text


def plain(text: str) -> str:
    """Return the text without what moves the cursor and colours it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.slow
def test_a_search_in_a_terminal(tmp_path: Path, prepared: Path) -> None:
    (tmp_path / "micro.yaml").write_text(MICRO, encoding="utf-8")
    command = [sys.executable, "-m", "nas_cli.main", "search", "micro.yaml", "--data", str(prepared)]
    command += ["--trials", "100000", "--sampler", "random", "--device", "cpu"]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        environment.pop("COLUMNS", None)
        os.execve(command[0], command, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    try:
        before = read(terminal, "\x1b[?1049h")  # the alternate screen
        assert "study micro starts" in plain(before)
        live = read(terminal, " trained ·")
        assert "study" in live  # the header is part of the screen
        os.write(terminal, b"\x03")
        end = read(terminal, "nas search micro.yaml --data")
        order = [
            plain(end).index(text)
            for text in ("stopping the worker", "Interrupted. Run the same command to resume")
        ]
        assert order == sorted(order)
        assert end.index("\x1b[?1049l") < end.index("stopping")  # it leaves the screen before it waits
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
