"""`nas dashboard`: the real Optuna Dashboard on a real study, asked over HTTP."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studies.reporting.dashboard import Dashboard
from studies.reporting.dashboard_notes import trial_note, write_notes
from studies.study import Study
from surgery.architecture.strip import plain_strip
from surgery.config.problems import UserError

SERVE = "import typer; from nas_cli.commands import dashboard; app = typer.Typer(); "
SERVE += "app.callback()(lambda: None); dashboard.add_to(app); app()"


@pytest.fixture
def study(study_folder: Path, tmp_path: Path) -> Study:
    """A copy that a test may write to."""
    folder = tmp_path / "micro"
    shutil.copytree(study_folder, folder)
    return Study.open(str(folder))


@pytest.fixture
def url(study: Study) -> Iterator[str]:
    """The address of a dashboard in its own process."""
    command = [sys.executable, "-u", "-c", SERVE, "dashboard", str(study.folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        assert "http://127.0.0.1:" in line, line
        yield "http://" + line.split("http://")[1].split("/")[0].split()[0]
    finally:
        process.terminate()
        process.wait()


def get(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def wait_for_notes(url: str) -> dict[str, Any]:
    while True:
        detail: dict[str, Any] = get(f"{url}/api/studies/0")
        if detail["note"]["body"]:
            return detail
        time.sleep(0.2)


def test_it_serves_the_trials_with_architecture_notes(study: Study, url: str) -> None:
    studies = get(f"{url}/api/studies")["study_summaries"]
    assert [item["study_name"] for item in studies] == ["micro"]
    detail = wait_for_notes(url)
    records = study.records()
    assert len(detail["trials"]) == len(records)
    for shown, record in zip(detail["trials"], records, strict=True):
        assert record.line in shown["note"]["body"]
        assert plain_strip(record.build()) in shown["note"]["body"]
    assert detail["objective_names"] == ["val_loss", "params"]
    assert study.space.text.strip() in detail["note"]["body"]
    with urllib.request.urlopen(f"{url}/dashboard/studies/0") as page:
        assert b"<html" in page.read()


def test_constraints_reach_the_dashboard(study: Study, url: str) -> None:
    records = study.records()
    assert {"trained", "infeasible"} <= {record.state for record in records}
    for shown, record in zip(get(f"{url}/api/studies/0")["trials"], records, strict=True):
        broken = study.space.violations(record.build())
        assert any(amount > 0 for amount in shown["constraints"]) == bool(broken)
        assert len(shown["constraints"]) == len(study.space.constraints)


def test_a_trial_added_meanwhile_is_shown(study: Study, url: str) -> None:
    before = len(wait_for_notes(url)["trials"])
    study.inner.add_trial(study.inner.get_trials()[0])
    while (shown := len(get(f"{url}/api/studies/0")["trials"])) == before:  # it looks every two seconds
        time.sleep(0.2)
    assert shown == before + 1


def test_notes_are_written_once_and_edits_are_kept(study: Study) -> None:
    from optuna_dashboard import get_note, save_note

    records = study.records()
    assert write_notes(study) == len(records) + 1
    assert write_notes(study) == 0
    save_note(study.inner, "my own words")
    assert write_notes(study) == 0
    assert get_note(study.inner) == "my own words"


def test_a_note_names_what_breaks_the_constraints(study: Study) -> None:
    record = next(item for item in study.records() if item.state == "infeasible")
    note = trial_note(study, record)
    assert record.reason in note
    assert "decode_flops@64" in note


def test_a_taken_port_is_refused(study: Study) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="taken by another program"):
            Dashboard(study, "127.0.0.1", port)
    with pytest.raises(UserError, match="--host"):
        Dashboard(study, "no.such.host.invalid", 0)
