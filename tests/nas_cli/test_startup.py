"""Commands that must answer at once load nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch", "optuna", "transformers", "datasets", "numpy", "scipy", "tokenizers", "matplotlib", "plotly",
)  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["space", "--help"],
        ["search", "--help"],
        ["help", "search"],
        ["space", "list"],
        ["space", "show", "tiny"],
        ["space", "validate", "tiny", "hdpl", "hybrid"],
        ["space", "validate", "tiny", "--json"],
        ["space", "sample", "hybrid"],
    ],
    ids=" ".join,
)
def test_a_light_command_loads_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "nas_cli.main", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert "typer" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("studies.workers.worker", {"transformers", "scipy", "matplotlib", "pandas"}),
        ("studies.workers.run", {"transformers", "scipy", "matplotlib"}),
        ("studies.audit.report, nas_cli.render.verdict", {"torch", "transformers", "scipy"}),
    ],
)
def test_seconds_of_imports_are_left_to_those_who_need_them(modules: str, absent: set[str]) -> None:
    code = f"import sys, {modules}\nprint(*{absent} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_every_command_is_there() -> None:
    command = [sys.executable, "-m", "nas_cli.main", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("space", "data", "search", "worker", "front", "show", "pick", "train", "apply", "eval",
                 "generate", "dashboard"):  # fmt: skip
        assert f" {name} " in result.stdout
