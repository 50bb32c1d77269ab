"""Several worker processes on one study: killed, stopped, orphaned, restarted; real processes all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import studies.workers.supervisor
from studies.data import TokenData
from studies.storage.attributes import DEATHS
from studies.study import Study
from studies.study.leases import statuses
from studies.study.trial_record import TrialRecord
from studies.training.loop import train
from studies.workers.progress import Snapshot
from studies.workers.proxy import train_settings
from studies.workers.supervisor import Supervisor, worker_device
from studies.workers.worker import work
from surgery.model import HybridLM
from tests.studies.conftest import MakeStudy, outcome
from tests.studies.held import Hold, wait_until

ROOT = Path(__file__).resolve().parents[3]
TARGET = 8
BASELINES = 3  # of the space: the trials that are trained first


def start_worker(study: Study, target: int = TARGET) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nas_cli.main", "worker", str(study.folder), "--trials", str(target)]
    return subprocess.Popen(
        [*command, "--device", "cpu"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may need long for what is asked of it; only the limit of a whole test is shorter."""
    monkeypatch.setattr(studies.workers.supervisor, "GRACE_SECONDS", 3600.0)


def check_complete(study: Study, target: int) -> list[TrialRecord]:
    records = study.records()
    assert [record.number for record in records] == list(range(len(records)))
    assert sum(record.state == "trained" for record in records) == target
    assert not {record.state for record in records} & {"running", "waiting", "failed"}
    hashes = [record.hash for record in records if record.state == "trained"]
    assert len(set(hashes)) == len(hashes)
    front = json.loads((study.folder / "front.json").read_text())["front"]
    assert [item["number"] for item in front] == [record.number for record in study.front()]
    return records


def test_two_workers_one_killed_in_a_trial(make_study: MakeStudy, tokens: TokenData, hold: Hold) -> None:
    study = make_study()
    hold.start(BASELINES)
    workers = [start_worker(study), start_worker(study)]
    wait_until(lambda: len(hold.waiting()) == 2)
    victim, broken = next(iter(hold.waiting().items()))
    assert study.record(broken).state == "running"
    finished = [row for row in outcome(study) if row[1] == "trained"]
    assert len(finished) >= 2
    os.kill(victim, signal.SIGKILL)
    dead, alive = sorted(workers, key=lambda worker: worker.pid != victim)
    assert dead.wait() == -signal.SIGKILL
    hold.release()
    output = alive.communicate()[0]
    assert alive.returncode == 0, output
    records = check_complete(study, TARGET)
    assert [row for row in outcome(study) if row[0] in {item[0] for item in finished}] == finished
    again = records[broken]
    assert again.state == "trained"
    assert f"-{alive.pid}-" in again.worker
    assert f"trial {broken}: starting" in output
    # what the survivor measured is what the architecture gives anywhere
    torch.manual_seed(again.seeds[0])
    result = train(
        HybridLM(again.build()), tokens, train_settings(study.space, 0), seed=again.seeds[0],
        device=torch.device("cpu"),
    )  # fmt: skip
    assert result.val_loss == again.metrics["val_loss"]


def test_supervisor_restarts_a_killed_worker(make_study: MakeStudy, hold: Hold) -> None:
    study = make_study()
    hold.start(BASELINES)
    supervisor = Supervisor(study, workers=2, target=TARGET, device="cpu")
    snapshots: list[Snapshot] = []
    killed: dict[int, int] = {}
    for snapshot in supervisor.watch():
        snapshots.append(snapshot)
        if not killed and snapshot.eta is not None and snapshot.tokens_per_s and (busy := hold.waiting()):
            killed = dict(list(busy.items())[:1])
            os.kill(next(iter(killed)), signal.SIGKILL)
            hold.release()
    assert killed
    assert supervisor.respawned == 1
    assert not supervisor.failed
    assert not supervisor.timed_out
    records = check_complete(study, TARGET)
    assert records[next(iter(killed.values()))].state == "trained"
    last = snapshots[-1]
    assert last.counted == last.trained_here == last.count("trained") == TARGET
    assert last.count("waiting") == 0
    assert [record.number for record in last.front] == [record.number for record in study.front()]
    assert last.trials_per_hour == pytest.approx(3600 * TARGET / (last.elapsed - last.prepared))
    assert all(item.eta >= 0 for item in snapshots if item.eta is not None)
    assert not list(study.workers_folder.iterdir())


# a worker in whose first training a kernel goes wrong
BROKEN = """
import sys, torch, studies.workers.worker
from studies.workers.__main__ import main

def train(*args, **options):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\\nFor debugging ...")

studies.workers.worker.train = train
sys.exit(main())
"""


def test_a_worker_that_loses_its_device_is_started_anew_and_its_trial_too(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    start, commands = subprocess.Popen, list[list[str]]()

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        commands.append(command)
        if len(commands) == 1:
            command = [command[0], "-c", BROKEN, *command[3:]]
        return start(command, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(studies.workers.supervisor, "RECOVERY_SECONDS", 0.2)
    supervisor = Supervisor(study, workers=1, target=3, device="cpu")
    for _ in supervisor.watch():
        pass
    assert not supervisor.failed, supervisor.last_output()
    assert supervisor.respawned == 1
    records = check_complete(study, 3)
    assert study.trial(0).user_attrs[DEATHS] == 0  # counted, and forgiven at the trial's first rung
    assert records[0].state == "trained"
    log = (study.folder / "workers.log").read_text()
    assert log.count("trial 0: starting") == 2
    lost = next(line for line in log.splitlines() if "device is lost" in line)
    assert lost.endswith("trial 0: AcceleratorError: CUDA error: an illegal memory access was encountered")


def test_leaving_early_stops_the_workers(make_study: MakeStudy, hold: Hold) -> None:
    study = make_study()
    hold.start()
    supervisor = Supervisor(study, workers=1, target=50, device="cpu")
    with closing(supervisor.watch()) as snapshots:
        for _ in snapshots:
            if hold.waiting():
                break
    assert all(process.poll() is not None for process in supervisor.processes)
    assert not supervisor.failed
    assert "running" not in [record.state for record in study.records()]
    assert (study.folder / "front.json").is_file()
    assert "interrupted, requeued" in supervisor.last_output()


def test_time_is_up(make_study: MakeStudy, hold: Hold) -> None:
    study = make_study()
    hold.start()
    supervisor = Supervisor(study, workers=1, target=50, device="cpu")
    for snapshot in supervisor.watch():
        last = snapshot
        if hold.waiting():
            supervisor.timeout = 1e-3
    assert supervisor.timed_out
    assert not supervisor.failed
    assert last.count("running") == 0
    assert supervisor.respawned == 0


@pytest.mark.parametrize(
    ("now", "over", "continues"),
    [(3.9, False, True), (4.1, True, True), (23.9, True, True), (24.1, True, False)],
)
def test_when_time_is_up(
    now: float, over: bool, continues: bool, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 4 seconds workers are asked to stop, and have 20 more for it."""
    monkeypatch.setattr(studies.workers.supervisor, "GRACE_SECONDS", 20.0)
    supervisor = Supervisor(make_study(), workers=1, target=50, device="cpu", timeout=4)
    started = supervisor.started
    monkeypatch.setattr(time, "monotonic", lambda: started + now)
    assert supervisor._in_time() == continues
    assert supervisor.timed_out == over


def test_workers_end_with_a_killed_supervisor(make_study: MakeStudy, hold: Hold) -> None:
    study = make_study()
    hold.start()
    code = (
        "import sys\nfrom tests.studies.held import start_held_workers\nstart_held_workers()\n"
        "from studies.study.study import Study\nfrom studies.workers.supervisor import Supervisor\n"
        "for _ in Supervisor(Study.open(sys.argv[1]), workers=1, target=50, device='cpu').watch(): pass\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code, str(study.folder)], cwd=ROOT)
    wait_until(hold.waiting)
    supervisor.kill()
    supervisor.wait()
    wait_until(lambda: not statuses(study.workers_folder))
    assert "running" not in [record.state for record in study.records()]


def test_workers_that_cannot_start_are_told(make_study: MakeStudy, tokens: TokenData) -> None:
    study = make_study()
    supervisor = Supervisor(study, workers=1, target=2, device="cuda:7")
    last = list(supervisor.watch())[-1]
    assert supervisor.failed
    assert supervisor.respawned == 0
    assert last.counted == 0
    assert last.eta is None
    assert "cuda:7" in supervisor.last_output()
    assert "Traceback" not in supervisor.last_output()


def test_a_full_disk_loses_no_finished_trial(make_study: MakeStudy) -> None:
    """A limit on file sizes makes the journal's writes fail half-way, as a full disk does."""
    whole, study = make_study("whole"), make_study("full")
    work(whole, target=5, device="cpu", log=lambda line: None)
    limit = (whole.folder / "journal.log").stat().st_size * 3 // 4
    code = (
        "import resource, runpy\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "runpy.run_module('nas_cli.main', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, "worker", str(study.folder), "--trials", "5", "--device", "cpu"]
    full = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 2, full.stderr
    assert "can't continue" in full.stderr
    assert "File too large" in full.stderr
    assert "Traceback" not in full.stderr
    done = [row for row in outcome(study) if row[1] == "trained"]
    assert done
    work(study, target=5, device="cpu", log=lambda line: None)
    assert outcome(study) == outcome(whole)
    assert outcome(whole)[: len(done)] == done


@pytest.mark.parametrize(
    ("device", "gpus", "devices"),
    [
        ("cuda:0", 2, ["cuda:0"] * 4),  # several workers on one device
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ("auto", 0, ["auto"] * 4),
        ("cpu", 2, ["cpu"] * 4),
    ],
)
def test_workers_on_devices(
    device: str, gpus: int, devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert [worker_device(device, index) for index in range(4)] == devices
