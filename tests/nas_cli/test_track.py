"""`--track` with the real packages: what they stored, read back by their own readers.

`make test-trackers` installs them; without one, its tests are skipped.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from studies.study import Study
from studies.tracking.choice import KINDS
from studies.tracking.search import run_name

Nas = Callable[..., Result]
FIRST = "trial-00000-dense"


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)


def needs(tracker: str) -> None:
    if not KINDS[tracker].installed:
        pytest.skip(f"needs {tracker}, which is not installed here; `make test-trackers` installs it")


def nas_in(folder: Path, *words: object) -> str:
    """Run `nas` in a process of its own, as the packages expect, and return what it printed."""
    command = [sys.executable, "-m", "nas_cli.main", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NAS_HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tracked(study_folder: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study that was searched again, with all trackers that are installed."""
    import shutil

    chosen = [word for name, kind in KINDS.items() if kind.installed for word in ("--track", name)]
    if not chosen:
        pytest.skip("needs a tracker, and none is installed here; `make test-trackers` installs them")
    home = tmp_path_factory.mktemp("tracked")
    shutil.copytree(study_folder, home / "runs" / "micro")
    text = nas_in(
        home, "search", home / "runs" / "micro" / "space.yaml", "--name", "micro", "--trials", 6, "--data",
        prepared, "--sampler", "random", *chosen,
    )  # fmt: skip
    assert "warning" not in text
    assert sorted(path.name for path in home.iterdir()) == ["runs"]  # nothing outside the study
    return Study.open("micro", home / "runs")


def compare(study: Study, runs: Mapping[str, Mapping[str, float]]) -> None:
    """Compare results by run with the records of the study."""
    for record in study.records():
        if record.state == "trained":
            ours = runs[run_name(record)]
            assert {name: ours[name] for name in record.metrics} == pytest.approx(record.metrics, rel=1e-6)
    assert "study" in runs


def test_tensorboard_reads_curves_results_and_the_front(tracked: Study) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(name: str) -> Any:
        events = EventAccumulator(str(tracked.folder / "tracking" / "tensorboard" / name))
        events.Reload()
        return events

    results = {}
    for path in (tracked.folder / "tracking" / "tensorboard").iterdir():
        events = read(path.name)
        tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("result/")]
        results[path.name] = {tag.partition("/")[2]: events.Scalars(tag)[-1].value for tag in tags}
    compare(tracked, results)
    curve = [point for point in tracked.curve(0) if "loss" in point]
    losses = read(FIRST).Scalars("loss")
    assert [event.step for event in losses] == [point["step"] for point in curve]
    assert [event.value for event in losses] == pytest.approx([point["loss"] for point in curve])
    front = read("study").Tensors("front/text_summary")[0].tensor_proto.string_val[0].decode()
    assert all(f"| {record.number} |" in front for record in tracked.front())


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline run: protocol buffers in a log of LevelDB's format."""
    from wandb.proto import wandb_internal_pb2

    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""


def test_wandb_reads_curves_results_and_the_front(tracked: Study) -> None:
    needs("wandb")
    results: dict[str, dict[str, Any]] = {}
    losses: list[tuple[int, float]] = []
    for path in (tracked.folder / "tracking" / "wandb" / "wandb").glob("offline-run-*/*.wandb"):
        name, summary = "", {}
        for record in wandb_records(path):
            if record.HasField("run"):
                name = record.run.display_name
            summary |= {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.summary.update
            }
            row = {
                item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item
            }
            if name == FIRST and "loss" in row:
                losses.append((row["_step"], row["loss"]))
        results[name] = summary
    compare(tracked, results)
    assert results[FIRST]["state"] == "trained"
    (file,) = (tracked.folder / "tracking" / "wandb").rglob("front_*.table.json")
    front = json.loads(file.read_text())
    at = front["columns"].index("trial")
    assert [row[at] for row in front["data"]] == [record.number for record in tracked.front()]
    assert losses == [(point["step"], point["loss"]) for point in tracked.curve(0) if "loss" in point]


def test_mlflow_reads_curves_results_and_the_front(tracked: Study) -> None:
    needs("mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tracked.folder}/tracking/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("micro")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}

    def results(metrics: Mapping[str, float]) -> dict[str, float]:
        named = {name: value for name, value in metrics.items() if name.startswith("result/")}
        return {name.partition("/")[2].replace("_at_", "@"): value for name, value in named.items()}

    compare(tracked, {name: results(run.data.metrics) for name, run in runs.items()})
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs[FIRST].data.params["baseline"] == "dense"
    history = client.get_metric_history(runs[FIRST].info.run_id, "loss")
    assert [(entry.step, entry.value) for entry in history] == [
        (point["step"], point["loss"]) for point in tracked.curve(0) if "loss" in point
    ]
    file = client.download_artifacts(runs["study"].info.run_id, "front.json")
    front = json.loads(Path(file).read_text())
    at = front["columns"].index("trial")
    assert [row[at] for row in front["data"]] == [record.number for record in tracked.front()]


def test_trackio_reads_curves_results_and_the_front(
    tracked: Study,
) -> None:
    needs("trackio")
    code = (
        "import json, sys\nimport trackio\nfrom trackio.sqlite_storage import SQLiteStorage\n"
        "print('read: ' + json.dumps({run.name: SQLiteStorage.get_logs('micro', run.name)\n"
        "    for run in trackio.Api().runs('micro')}))"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(tracked.folder / "tracking" / "trackio")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logs = json.loads(done.stdout.partition("read: ")[2])
    results = {
        name: {
            key.removeprefix("result/"): value
            for row in rows
            for key, value in row.items()
            if key.startswith("result/")
        }
        for name, rows in logs.items()
    }
    compare(tracked, results)
    assert [(row["step"], row["loss"]) for row in logs[FIRST] if "loss" in row] == [
        (point["step"], point["loss"]) for point in tracked.curve(0) if "loss" in point
    ]
    front = next(row["front"]["_value"] for row in logs["study"] if isinstance(row.get("front"), dict))
    assert [row["trial"] for row in front] == [record.number for record in tracked.front()]


@pytest.mark.slow
def test_a_healing_is_tracked_stage_by_stage(llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "design.yaml").write_text("layout: FW\nmixers: {W: {window: 8}}\n")
    text = nas_in(
        tmp_path, "apply", tmp_path / "design.yaml", llama_folder, "-o", "hybrid", "--calibrate", "none",
        "--heal", "8k", "--data", prepared, "--seq-len", 32, "--control", "--track", "tensorboard",
    )  # fmt: skip
    store = tmp_path / "hybrid.tracking" / "tensorboard"
    assert f"tensorboard --logdir {store}" in text
    assert sorted(path.name for path in store.iterdir()) == ["hybrid", "hybrid-control", "hybrid-healed"]
    healed = EventAccumulator(str(store / "hybrid-healed"))
    healed.Reload()
    assert {"loss", "kl", "val_loss", "result/val_loss"} <= set(healed.Tags()["scalars"])
    whole = EventAccumulator(str(store / "hybrid"))
    whole.Reload()
    assert {f"result/{name}/val_loss" for name in ("original", "rewritten", "healed", "control")} <= set(
        whole.Tags()["scalars"]
    )


@pytest.mark.parametrize(
    "command",
    [
        ("search", "tiny", "--trials", 1),
        ("train", "{architecture}", "-o", "model"),
        ("apply", "{architecture}", "nowhere", "-o", "model", "--heal", "8k"),
    ],
    ids=lambda command: command[0],
)
def test_what_is_missing_is_refused_before_anything_else(
    nas: Nas, command: tuple[object, ...], architecture_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.tracking.choice.Kind.installed", False)
    words = [architecture_file if word == "{architecture}" else word for word in command]
    result = nas(*words, "--track", "mlflow")
    assert result.exit_code == 2
    assert 'needs MLflow, which is not installed (pip install "nas-cli[mlflow]")' in str(result.exception)
