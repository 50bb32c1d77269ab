"""Leases: a worker is alive as long as its process holds its lock, whatever else looks on."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from studies.study.leases import Lease, clear_dead, host_of, is_alive, statuses

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys
from pathlib import Path
from studies.study.leases import Lease
lease = Lease(Path(sys.argv[1]))
lease.report_status({"state": "training", "done": 0.5})
print(lease.worker, flush=True)
sys.stdin.read()  # until it is killed, or its parent is
"""


def test_a_killed_worker_is_dead_at_once(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    worker = holder.stdout.readline().strip()
    assert is_alive(tmp_path, worker) is True
    assert statuses(tmp_path) == [{"worker": worker, "state": "training", "done": 0.5}]
    clear_dead(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert is_alive(tmp_path, worker) is False
    assert statuses(tmp_path) == []
    assert (tmp_path / f"{worker}.lock").exists()  # reading statuses deletes nothing
    clear_dead(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert is_alive(tmp_path, worker) is None


def test_a_released_lease_leaves_nothing(tmp_path: Path) -> None:
    with Lease(tmp_path / "workers") as lease:
        lease.report_status({"state": "waiting"})
        assert is_alive(tmp_path / "workers", lease.worker)
    assert list((tmp_path / "workers").iterdir()) == []
    assert statuses(tmp_path / "nowhere") == []


def test_lookers_do_not_take_each_other_for_the_worker(tmp_path: Path) -> None:
    (tmp_path / "dead-1-a.lock").touch()
    other = os.open(tmp_path / "dead-1-a.lock", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_SH)  # a dashboard that looks at the same moment
    assert is_alive(tmp_path, "dead-1-a") is False
    os.close(other)


def test_clearing_while_leases_are_made(tmp_path: Path) -> None:
    """A lease is a file before it is a lock; cleared away in between, it is made again."""

    def make(_: int) -> bool:
        lease = Lease(tmp_path)
        clear_dead(tmp_path)
        alive = is_alive(tmp_path, lease.worker) is True
        lease.release()
        return alive

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(make, range(400)))


def test_host_of_a_worker() -> None:
    assert host_of("node-1-4711-ab12cd") == "node-1"
    assert host_of("node-1-2-4711-ab12cd") == "node-1-2"


def test_half_a_status_is_passed_over(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        (tmp_path / f"{lease.worker}.json").write_text('{"state": "tr')
        assert statuses(tmp_path) == []
