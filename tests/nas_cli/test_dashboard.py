"""Optuna Dashboard on a real study, with `nas dashboard` and without nas, asked over HTTP and as WSGI."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from studies.analysis.importances import Field
from studies.reporting.annotator import Annotator, annotating
from studies.reporting.artifacts import artifact_folder
from studies.reporting.dashboard import Dashboard
from studies.reporting.dashboard_notes import trial_note, write_notes
from studies.reporting.dashboard_view import DashboardView
from studies.reporting.folded_yaml import folded
from studies.reporting.importance_map import ImportanceMap
from studies.reporting.study_note import study_note
from studies.storage.attributes import ARCHITECTURE, HASH, LINE, MEASURED, RUNGS, STOPPED_AT
from studies.study import Study
from studies.study.settings import StudySettings
from surgery.architecture.strip import plain_strip
from surgery.config.problems import UserError
from tests.scored_study import make_study as make_scored

SERVE = "import typer; from nas_cli.commands import dashboard; app = typer.Typer(); "
SERVE += "app.callback()(lambda: None); dashboard.add_to(app); app()"


@pytest.fixture
def study(study_folder: Path, tmp_path: Path) -> Study:
    """A copy that a test may write to."""
    folder = tmp_path / "micro"
    shutil.copytree(study_folder, folder)
    return Study.open(str(folder))


@contextmanager
def served(study: Study) -> Iterator[str]:
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


@pytest.fixture(scope="module")
def shown(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, str]]:
    """A study that no test changes, and the address of its dashboard."""
    folder = tmp_path_factory.mktemp("shown") / "micro"
    shutil.copytree(study_folder, folder)
    study = Study.open(str(folder))
    with served(study) as url:
        yield study, url


def get(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def wait_for_notes(url: str) -> dict[str, Any]:
    while True:
        detail: dict[str, Any] = get(f"{url}/api/studies/0")
        if detail["note"]["body"]:
            return detail
        time.sleep(0.2)


def test_it_serves_the_trials_with_architecture_notes(shown: tuple[Study, str]) -> None:
    study, url = shown
    studies = get(f"{url}/api/studies")["study_summaries"]
    assert [item["study_name"] for item in studies] == ["micro"]
    detail = wait_for_notes(url)
    records = study.records()
    assert len(detail["trials"]) == len(records)
    for trial, record in zip(detail["trials"], records, strict=True):
        assert record.line in trial["note"]["body"]
        assert plain_strip(record.build()) in trial["note"]["body"]
    assert detail["objective_names"] == ["val_loss", "params"]
    assert folded(study.space.text.strip()) in detail["note"]["body"]
    with urllib.request.urlopen(f"{url}/dashboard/studies/0") as page:
        assert b"<html" in page.read()


def test_constraints_reach_the_dashboard(shown: tuple[Study, str]) -> None:
    study, url = shown
    records = study.records()
    assert {"trained", "infeasible"} <= {record.state for record in records}
    for trial, record in zip(get(f"{url}/api/studies/0")["trials"], records, strict=True):
        broken = study.space.violations(record.build())
        assert any(amount > 0 for amount in trial["constraints"]) == bool(broken)
        assert len(trial["constraints"]) == len(study.space.constraints)


def test_a_trial_added_meanwhile_is_shown(study: Study) -> None:
    with served(study) as url:
        before = len(wait_for_notes(url)["trials"])
        study.inner.add_trial(study.inner.get_trials()[0])
        while (now := len(get(f"{url}/api/studies/0")["trials"])) == before:  # it looks every two seconds
            time.sleep(0.2)
        assert now == before + 1


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


def test_notes_graphs_and_artifacts_are_written_meanwhile(study: Study) -> None:
    with annotating(study, seconds=0.05):
        pass
    assert Annotator(Study.open(str(study.folder))).update(last=True) == 0  # all of it was there
    trained = [record for record in study.records() if record.counted]
    assert len(list(artifact_folder(study).iterdir())) == 3 * len(trained) + 1  # and the lock
    with pytest.raises(RuntimeError), annotating(study):  # ends at once
        raise RuntimeError


def test_a_study_that_can_only_be_read_gets_no_notes(study: Study) -> None:
    (study.folder / "artifacts").write_text("not a folder", encoding="utf-8")
    with annotating(study):
        pass
    assert (study.folder / "artifacts").read_text(encoding="utf-8") == "not a folder"


def test_a_study_without_a_folder_here_gets_notes_and_no_folder(study: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    settings = {key: getattr(study.settings, key) for key in study.settings.__dataclass_fields__}
    other = Study.create("other", study.space, StudySettings(**settings), tmp_path / "runs", url)
    other.inner.add_trials(study.inner.get_trials())
    shutil.rmtree(other.folder)
    assert Annotator(other).update(last=True) > len(other.records())
    assert not other.folder.exists()


def ask(app: Any, path: str, query: str = "") -> Any:
    """The answer of a WSGI application: JSON, or bytes."""
    got: dict[str, Any] = {}

    def start(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        got.update(status=status, headers=dict(headers))

    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query,
        "SERVER_NAME": "x", "SERVER_PORT": "80", "HTTP_HOST": "x",
        "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr,
        "HTTP_ACCEPT_ENCODING": "",
    }  # fmt: skip
    body = b"".join(app(environ, start))
    assert got["status"].startswith("200"), (got, body)
    return json.loads(body) if "json" in got["headers"]["Content-Type"] else body


def pause(study: Study) -> int:
    """Add a paused trial and return its number."""
    record = study.records()[0]
    trial = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        user_attrs={
            ARCHITECTURE: record.architecture, LINE: record.line, HASH: "0", STOPPED_AT: 1, RUNGS: [5.5],
            MEASURED: {"val_bpb": 2.5},
        },
    )  # fmt: skip
    study.inner.add_trial(trial)
    return len(study.records()) - 1


@pytest.mark.parametrize("database", [False, True])
def test_the_dashboard_without_nas_shows_notes_graphs_and_artifacts(
    study: Study, tmp_path: Path, database: bool
) -> None:
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    storage = str(study.folder / "journal.log")
    if database:
        storage = f"sqlite:///{tmp_path / 'studies.db'}"
        settings = {key: getattr(study.settings, key) for key in study.settings.__dataclass_fields__}
        other = Study.create("other", study.space, StudySettings(**settings), tmp_path / "runs", storage)
        other.inner.add_trials(study.inner.get_trials())
        study = other
    Annotator(study).update(last=True)
    app = wsgi(storage, FileSystemArtifactStore(artifact_folder(study)))
    detail = ask(app, "/api/studies/1" if database else "/api/studies/0")
    assert "### Front" in detail["note"]["body"]
    names = {item["id"].split("-", 2)[2] for item in detail["plotly_graph_objects"]}
    assert {"front", "layers", "hypervolume"} <= names
    for shown in detail["trials"]:
        if not shown["note"]["body"] or shown["state"] != "Complete":
            continue
        files = {item["filename"]: item["artifact_id"] for item in shown["artifacts"]}
        assert {"layers.svg", "pick.yaml"} <= set(files)
        text = ask(app, f"/artifacts/{shown['study_id']}/{shown['trial_id']}/{files['pick.yaml']}")
        assert text.decode() == study.records()[shown["number"]].build().to_yaml()


def test_paused_trials_and_attributes_are_readable(study: Study) -> None:
    number = pause(study)
    Annotator(study).update(last=True)
    view = Dashboard(study, "127.0.0.1", 0).server.get_app()
    detail = ask(view, "/api/studies/0")
    paused = detail["trials"][number]
    assert paused["state"] == "Waiting"
    words = {item["key"]: item["value"] for item in paused["user_attrs"]}
    assert words["paused"].startswith("at rung 1")
    assert words["loss at rungs"] == "5.5000 at 100%"
    assert words["val_bpb"] == "2.5000 bits/byte"
    assert "paused at rung 1 of 1" in paused["note"]["body"]
    # Optuna's own dashboard shows it as running: the study's note says first that it is not
    plain = study.inner.get_trials(deepcopy=False)[number]
    assert plain.state == optuna.trial.TrialState.RUNNING
    note = study_note(study)
    assert f"**Paused, not running: #{number} (rung 1).**" in note
    assert note.index("Paused, not running") < note.index("### Front")
    assert f"#{number} (rung 1)" in detail["note"]["body"]
    for item in [item for trial in detail["trials"] for item in trial["user_attrs"]] + detail["user_attrs"]:
        assert not item["value"].startswith(("{", "[")), item
    assert [trial["number"] for trial in detail["best_trials"]] == sorted(
        record.number for record in study.front()
    )
    order = [item["id"] for item in detail["plotly_graph_objects"]]
    kinds = [name.split("-")[2] for name in order]
    assert kinds[0] == "front"
    assert kinds.index("baselines") < kinds.index("importances") < kinds.index("layers")
    later = ask(view, "/api/studies/0", f"after={number}")
    assert later["trials"] == detail["trials"][number:]
    for key in ("best_trials", "union_user_attrs", "note", "plotly_graph_objects"):
        assert later[key] == detail[key]
    assert {item["key"] for item in detail["union_user_attrs"]} == {
        item["key"] for trial in detail["trials"] for item in trial["user_attrs"]
    }


def test_the_report_is_served_and_linked(shown: tuple[Study, str]) -> None:
    study, url = shown
    with urllib.request.urlopen(f"{url}/report") as answer:
        assert answer.headers["Content-Type"].startswith("text/html")
        page = answer.read().decode()
    assert "<h3>Baselines</h3>" in page
    assert study.records()[0].line in page
    with urllib.request.urlopen(f"{url}/dashboard/studies/0/trials") as answer:
        page = answer.read().decode()
    assert 'href="/report"' in page
    assert 'href="/dashboard/studies/0/note"' in page
    assert ":is(th, td) { padding: " in page


def test_importances_of_a_pretrained_model_are_shares_of_its_parts(tmp_path: Path) -> None:
    study = make_scored(tmp_path / "runs")
    app = Dashboard(study, "127.0.0.1", 0).server.get_app()
    kl, cache = ask(app, "/api/studies/0/param_importances")["param_importances"]
    shares = {item["name"]: item["importance"] for item in kl}
    assert max(shares, key=lambda name: shares[name]) == "layer.3.ffn"
    assert sum(shares.values()) == pytest.approx(1)
    assert len(cache) == 6


def test_importances_of_the_dashboard_are_ours(study: Study) -> None:
    app = Dashboard(study, "127.0.0.1", 0).server.get_app()
    assert isinstance(app, DashboardView)
    loss, params = ask(app, "/api/studies/0/param_importances")["param_importances"]
    assert loss == []  # of too few trials
    assert sum(item["importance"] for item in params) == pytest.approx(1)
    names = {"hdpl.rank", "loop.count"}
    shares = {
        "val_loss": {"hdpl.rank": 0.75, "loop.count": 0.25},
        "params": {"hdpl.rank": 1.0, "loop.count": 0.0},
    }
    trained = sum(record.state == "trained" for record in study.records())
    fields = tuple(Field(name, 0.5, 0.5, None, 0.0, 9, True, True) for name in sorted(names))
    app._importances = trained, ImportanceMap("micro", fields, "val_loss", {"front": {}, **shares})
    loss, params = ask(app, "/api/studies/0/param_importances")["param_importances"]
    assert {item["name"]: item["importance"] for item in loss} == shares["val_loss"]
    assert {item["name"]: item["importance"] for item in params} == shares["params"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/0"),
        ("POST", "/api/studies"),
        ("POST", "/api/studies/0/rename"),
        ("POST", "/api/trials/0/tell"),
        ("POST", "/api/studies/0/0/skip"),
    ],
)
def test_nothing_but_notes_can_be_changed(shown: tuple[Study, str], method: str, path: str) -> None:
    study, url = shown
    before = len(study.records())
    request = urllib.request.Request(
        f"{url}{path}", b"{}", {"Content-Type": "application/json"}, method=method
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 403
    assert "nothing but notes" in json.loads(error.value.read())["reason"]
    assert len(Study.open(str(study.folder)).records()) == before
