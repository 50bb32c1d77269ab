"""`nas data`: preparing real text, and telling what is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Nas = Callable[..., Result]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "data"


def test_prepare_and_info(nas: Nas, text_file: Path, home: Path) -> None:
    facts = json.loads(nas("data", "prepare", text_file, "--tokenizer", "bpe:300", "--json").stdout)
    assert facts["tokenizer"]["vocab_size"] == 300
    assert facts["train"]["documents"] + facts["val"]["documents"] == 120
    folder = Path(facts["folder"])
    assert folder.parent == home
    again = json.loads(nas("data", "info", folder, "--verify", "--json").stdout)
    assert again == {**facts, "verified": True}
    text = nas("data", "info", folder).stdout
    assert f"{facts['train']['tokens']:,} tokens" in text
    known = json.loads(nas("data", "info", text_file, "--json").stdout)
    assert [item["folder"] for item in known["prepared"]] == [str(folder)]
    listed = json.loads(nas("data", "info", "--json").stdout)["prepared"]
    assert [(item["folder"], item["finished"]) for item in listed] == [(str(folder), True)]
    assert "bpe:300" in nas("data", "info").stdout


def test_prepare_into_a_folder_with_limits(nas: Nas, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = nas(
        "data", "prepare", text_file, "--tokenizer", "bpe:300", "--output", out, "--tokens", "20k",
        "--val-fraction", 0.3, "--json",
    )  # fmt: skip
    facts = json.loads(result.stdout)
    assert facts["folder"] == str(out.resolve())
    assert facts["val_fraction"] == 0.3
    assert 20_000 <= facts["train"]["tokens"] < 40_000


def test_info_of_a_corpus_that_was_not_prepared(nas: Nas) -> None:
    facts = json.loads(nas("data", "info", "builtin", "--json").stdout)
    assert facts["prepared"] == []
    assert facts["text_bytes"] > 1_000_000
    assert "not prepared yet" in nas("data", "info", "builtin").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepare", "bultin"], 'did you mean "builtin"'),
        (["prepare", "builtin", "--val-fraction", "0.9"], "val_fraction"),
        (["prepare", "builtin", "--tokenizer", "bpe:7"], "257"),
        (["info", "/no/such/folder"], "no such file"),
    ],
)
def test_mistakes_are_told(nas: Nas, arguments: list[str], said: str) -> None:
    result = nas("data", *arguments)
    assert result.exit_code == 2
    assert said in str(result.exception)


@pytest.mark.parametrize("count", ["0", "many", "1.5"])
def test_a_count_that_is_none(nas: Nas, count: str) -> None:
    result = nas("data", "prepare", "builtin", "--tokens", count)
    assert result.exit_code == 2
    assert "--tokens" in result.stderr


def test_verify_sees_a_changed_shard(nas: Nas, prepared: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    shard = next(folder.glob("train-*.bin"))
    shard.write_bytes(bytes(2) + shard.read_bytes()[2:])
    assert nas("data", "info", folder).exit_code == 0
    result = nas("data", "info", folder, "--verify")
    assert result.exit_code == 2
    assert "sha256" in str(result.exception)


def test_ctrl_c_stops_with_130_and_the_next_run_finishes(nas: Nas, text_file: Path, home: Path) -> None:
    code = (  # its first part is never finished, as if that took long
        "import time\nfrom studies.data.parts import Preparation\n"
        "Preparation._make_part = lambda *_: (print('at work', flush=True), time.sleep(1e6))\n"
        "from nas_cli.main import run\nrun()"
    )
    words = ("data", "prepare", str(text_file), "--tokenizer", "bpe:300")
    command = [sys.executable, "-c", code, *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    os.kill(process.pid, signal.SIGINT)
    _, text = process.communicate()
    assert process.returncode == 130
    assert "Interrupted. Run the same command to resume" in text
    assert "Traceback" not in text
    assert [item["finished"] for item in json.loads(nas("data", "info", "--json").stdout)["prepared"]] in (
        [],
        [False],
    )
    assert nas(*words).exit_code == 0
    assert [item["finished"] for item in json.loads(nas("data", "info", "--json").stdout)["prepared"]] == [
        True
    ]
