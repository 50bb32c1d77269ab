"""`nas doctor`: what it says of a machine and a study, and the repair of a damaged journal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from studies.study import Study
from studies.study.leases import Lease
from studies.workers.worker import work
from tests.studies.conftest import outcome

Nas = Callable[..., Result]


@pytest.fixture
def folder(study_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(study_folder, tmp_path / "runs" / study_folder.name))


def damage(folder: Path, line: int) -> bytes:
    """Change a character of a line. Returns what the journal is then."""
    lines = (folder / "journal.log").read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b"worker_id", b"worker-id")
    (folder / "journal.log").write_bytes(b"".join(lines))
    return b"".join(lines)


def test_a_machine(nas: Nas) -> None:
    result = nas("doctor", "--json")
    assert result.exit_code == 0
    findings = {item["what"]: item for item in json.loads(result.stdout)["findings"]}
    assert "optuna 5" in findings["packages"]["found"]
    assert "cores" in findings["CPU"]["found"]
    assert "prepared in" in findings["text"]["found"]
    assert "CPU" in nas("doctor").stdout


def test_a_study(nas: Nas, folder: Path) -> None:
    (folder / "workers").mkdir(exist_ok=True)
    result = nas("doctor", folder, "--json")
    assert result.exit_code == 0
    findings = {item["what"]: item for item in json.loads(result.stdout)["findings"]}
    count = len((folder / "journal.log").read_bytes().splitlines())
    assert f"{count} lines, none damaged" in findings["storage"]["found"]
    assert "6 trained" in findings["trials"]["found"]
    assert findings["workers"] == {
        "what": "workers",
        "state": "ok",
        "found": "0 training, 0 trials running",
        "hint": "",
    }
    with Lease(folder / "workers") as lease:
        lease.report_status({"state": "waiting"})
        assert "1 training" in nas("doctor", folder).stdout
    assert nas("doctor", "missing", "--dir", folder.parent).exit_code == 2
    assert nas("doctor", "--repair").exit_code == 2


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_repair_keeps_all_before_the_damage_and_search_trains_the_rest(
    nas: Nas, folder: Path, study_folder: Path, share: float
) -> None:
    whole = (folder / "journal.log").read_bytes()
    line = int(share * len(whole.splitlines()))
    bad = damage(folder, line)
    checked = nas("doctor", folder)
    assert checked.exit_code == 2
    assert f"line {line}: " in checked.stdout.replace("\n", " ")
    before = sorted(path.name for path in folder.iterdir())
    result = nas("doctor", folder, "--repair")
    assert result.exit_code == 0, result.output
    assert (folder / "journal.log.damaged-1").read_bytes() == bad
    kept = (folder / "journal.log").read_bytes()
    assert whole.startswith(kept)
    count = kept.count(b"\n")
    assert line - 60 < count < line  # up to the last whole batch
    assert f"{count} lines with" in result.stdout
    added = {path.name for path in folder.iterdir()} - set(before)
    assert added <= {"journal.log.damaged-1", "journal.lock", ".lock"}
    study = Study.open(str(folder))
    work(study, target=6, device="cpu", log=lambda text: None)
    assert outcome(study) == outcome(Study.open(str(study_folder)))
    damage(folder, 50)
    assert nas("doctor", folder, "--repair").exit_code == 0
    assert (folder / "journal.log.damaged-1").read_bytes() == bad
    assert (folder / "journal.log.damaged-2").is_file()


def test_checkpoints_of_trials_that_are_not_kept_are_set_aside(nas: Nas, folder: Path) -> None:
    """Their numbers will be given to other architectures, which must not continue from them."""
    paths = [folder / "trials" / f"{number:05d}" / "checkpoint.pt" for number in (0, 1, 90)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"weights")
    text = (folder / "journal.log").read_text(encoding="utf-8").splitlines()
    line = next(number for number, line in enumerate(text, 1) if '"trial_id":2' in line)
    damage(folder, line)
    result = json.loads(nas("doctor", folder, "--repair", "--json").stdout)["repair"]
    assert [path.exists() for path in paths] == [True, True, False]
    assert paths[2].with_name("checkpoint.pt.damaged-1").read_bytes() == b"weights"
    assert len(result["set_aside"]) == 2
    assert result["lines_kept"] + result["lines_dropped"] == len(text)


def test_repair_without_damage_changes_nothing(nas: Nas, folder: Path) -> None:
    before = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    }
    assert "intact" in nas("doctor", folder, "--repair").stdout
    after = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    }
    assert before == after


@pytest.mark.parametrize("line", [1, 2, 4])
def test_what_can_not_be_repaired(nas: Nas, folder: Path, line: int) -> None:
    """Before its settings are stored there is no study."""
    bad = damage(folder, line)
    names = sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
    result = nas("doctor", folder, "--repair")
    assert result.exit_code == 2
    assert "nothing can be kept" in str(result.exception)
    assert (folder / "journal.log").read_bytes() == bad
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") == names


def test_a_study_in_use_is_not_repaired(nas: Nas, folder: Path) -> None:
    bad = damage(folder, 60)
    with Lease(folder / "workers") as lease:
        result = nas("doctor", folder, "--repair")
        assert result.exit_code == 2
        assert lease.worker in str(result.exception)
    assert (folder / "journal.log").read_bytes() == bad
