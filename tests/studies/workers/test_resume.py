"""A search that was interrupted, however and wherever, ends as one that was not: bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from studies.search.refinement import take_repeat
from studies.study import Study
from studies.workers.worker import work
from tests.studies.conftest import SPACE, MakeStudy, outcome
from tests.studies.held import Hold, wait_until

ROOT = Path(__file__).resolve().parents[3]
HARD = SPACE.replace("params <= 13k", "params <= 12.3k")  # about one suggestion in six is feasible
TARGET = 7


def uninterrupted(make_study: MakeStudy, sampler: str, text: str) -> list[tuple[object, ...]]:
    study = make_study("whole", sampler=sampler, stopping="forecast", text=text)
    work(study, target=TARGET, device="cpu", log=lambda line: None)
    return outcome(study)


def crash(study: Study, name: str, writes: list[int], target: str = str(TARGET)) -> int:
    command = [sys.executable, "-m", "tests.studies.crashes", str(study.folder), target, name]
    command += map(str, writes)
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        ("gain", "SIGKILL"),
        pytest.param("tpe", "SIGKILL", marks=pytest.mark.slow),
        pytest.param("nsga2", "SIGINT", marks=pytest.mark.slow),
        pytest.param("tpe", "SIGINT", marks=pytest.mark.slow),
        pytest.param("nsga2", "SIGKILL", marks=pytest.mark.slow),
        pytest.param("random", "SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_interrupted_anywhere(make_study: MakeStudy, sampler: str, name: str) -> None:
    whole = uninterrupted(make_study, sampler, HARD)
    states = [row[1] for row in whole]
    assert states.count("trained") + states.count("paused") == TARGET
    assert states.count("infeasible") > TARGET
    study = make_study("broken", sampler=sampler, stopping="forecast", text=HARD)
    # from the first write (a baseline's) on, at every phase of a trial: taking, sampling, training, telling
    lives = crash(study, name, [1, 2, 5, 40, 9, 130, 13, 75, 23, 160, 31, 110, 51, 3])
    assert lives >= 10
    assert outcome(study) == whole


@pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_refining_interrupted_anywhere(make_study: MakeStudy, name: str) -> None:
    text = SPACE.replace("13k", "20k")  # every baseline is within the limit
    whole, broken = make_study("whole", text=text), make_study("broken", text=text)
    for study in (whole, broken):
        work(study, target=4, device="cpu", log=lambda line: None)
    work(whole, target=6, device="cpu", log=lambda line: None, take_next=take_repeat)
    repeats = [record.repeat_of for record in whole.records()]
    assert sum(number is not None for number in repeats) == 6
    # a repeat makes about twenty writes: in its first, among its parameters, in training, in its last
    lives = crash(broken, name, [1, 2, 3, 7, 25, 11, 14, 17, 19, 21, 5, 33], "repeats:6")
    assert lives >= 7
    assert outcome(broken) == outcome(whole)
    assert [record.repeat_of for record in broken.records()] == repeats


def test_worker_interrupted_by_ctrl_c(make_study: MakeStudy, hold: Hold) -> None:
    """The real command: during the baselines, then in the middle of a later trial."""
    whole = uninterrupted(make_study, "tpe", SPACE)
    study = make_study("stopped", stopping="forecast")
    command = [sys.executable, "-m", "nas_cli.main", "worker", str(study.folder), "--trials", str(TARGET)]
    command += ["--device", "cpu"]
    for first, trained in ((1, 1), (5, 3)):
        hold.start(first)
        worker = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_until(hold.waiting)
        assert sum(record.counted for record in study.records()) >= trained
        os.kill(worker.pid, signal.SIGINT)
        output, _ = worker.communicate()
        assert worker.returncode == 130
        assert "interrupted, requeued" in output
        assert "Traceback" not in output
        assert "running" not in [record.state for record in study.records()]
        assert not list(study.workers_folder.iterdir())
    hold.release()
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    assert outcome(study) == whole
