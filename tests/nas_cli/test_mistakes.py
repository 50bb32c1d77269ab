"""Mistakes of newcomers: each is refused with what the thing is, what is wanted there, and what to do.

The commands run in a folder that has a bit of everything. None of them gets as far as loading torch.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from surgery.hf import locate
from tests.nas_cli.conftest import MICRO

DESIGN = "layout: FFGF\ndesigned_for: {dim: 32, context: 32}\n"
PLAN = "architecture: {layout: FF}\nfold: average\ntensors: {}\n"

# (command, what it must say)
MISTAKES = [
    # a space where an architecture is wanted, and the other way round
    ("train space.yaml -o out", "space.yaml': is a search space, not an architecture (nas search space.yaml"),
    ("show space.yaml", "is a search space, not an architecture"),
    ("apply space.yaml model -o out", "is a search space, not an architecture"),
    ("search arch.yaml", "is an architecture file, not a search space (nas train arch.yaml -o OUT trains it"),
    ("space show arch.yaml", "is an architecture file, not a search space"),
    ("space validate design.yaml", "is a portable design"),
    ("search plan.yaml", "is a plan of nas apply, not a search space"),
    # a study, its front, or the folder of all studies
    ("train runs/micro -o out", "is a study's folder, not an architecture (nas pick runs/micro -o ARCH.yaml"),
    ("train runs/micro/front.json -o out", "is the front of a study, not an architecture (nas pick"),
    ("front runs/micro/front.json", "give the study's folder: runs/micro"),
    ("front runs", "is a folder of studies, not a study (give the name of one of them, with --dir runs"),
    ("search runs/micro", "is a study's folder, not a search space (its space is runs/micro/space.yaml"),
    ("front space.yaml", "is a search space, not a study (nas search space.yaml starts or resumes"),
    ("pick arch.yaml", "is an architecture file, not a study (nas show arch.yaml shows it)"),
    ("front model", "is a model folder, not a study (nas eval model measures it)"),
    # a name where a file is meant
    ("train micro -o out", "'micro': is a study, not an architecture (nas pick micro -o ARCH.yaml"),
    ("apply micro model -o out", "'micro': is a study, not an architecture (nas pick micro -o ARCH.yaml"),
    ("apply tiny model -o out", "'tiny': is a preset, a search space, and not an architecture (nas search t"),
    ("show tiny", "is a preset, a search space, and not an architecture (nas search tiny, or nas space"),
    ("train arch -o out", 'there is no such file (did you mean "arch.yaml"?)'),
    ("apply design model -o out", 'there is no such file (did you mean "design.yaml"?)'),
    ("show arch", 'there is no such file (did you mean "arch.yaml"?)'),
    ("search space", 'there is no such file (did you mean "space.yaml"?)'),
    ("search micro", "is a study, not a search space (its space is runs/micro/space.yaml; nas show micro"),
    # a file that is not there
    ("show ach.yaml", "'ach.yaml': there is no such file (did you mean \"arch.yaml\"?)"),
    ("show nosuch.yaml", "there is no such file (nas pick micro -o nosuch.yaml writes one)"),
    ("train nosuch.yaml -o out", "there is no such file (nas pick micro -o nosuch.yaml writes one)"),
    ("apply desing.yaml model -o out", 'there is no such file (did you mean "design.yaml"?)'),
    ("space validate spcae.yaml", 'there is no such file (did you mean "space.yaml"? presets are'),
    ("space show nosuch.yaml", "sprint, tiny; nas init nosuch.yaml writes one)"),
    ("pick micro --best val_los", 'of the study: val_loss, params (did you mean "val_loss"?)'),
    ("front micro.yaml", "is not in runs, and there is no such file or folder (did you mean \"micro\"?)"),
    # models
    ("eval arch.yaml", "is an architecture file, not a model (nas train arch.yaml -o OUT trains it"),
    ("generate runs/micro Once", "is a study's folder, not a model"),
    ("apply arch.yaml runs/micro -o out", "is a study's folder, not a model"),
    ("train model -o out", "is a model folder, not an architecture"),
    ("search model", "is a model folder, not a search space (nas search pretrained --model model"),
    ("eval somebody/no-such-model", "was not downloaded before, and the Hub can't be reached"),
    ("eval micro", "'micro': is a study, not a model (nas pick micro -o ARCH.yaml, then nas train"),
    ("search pretrained-tiny --model micro", "'micro': is a study, not a model"),
    ("generate tiny Once", "is a preset, a search space, and not a model (nas search tiny searches it"),
    ("eval pick.yaml", "there is no such file (a model is a folder or a Hub id)"),
    # names
    ("search tinny", 'did you mean "tiny"?'),
    ("front micr --dir runs", 'did you mean "micro"?'),
    ("search tiny --sampler tpes", 'Did you mean "tpe"?'),
    ("search tiny --stopping forcast", 'Did you mean "forecast"?'),
    ("search tiny --device gpu", "must be auto, cpu, cuda or cuda:N"),
    ("search tiny --data corpus.txt", "no such file, folder or named corpus"),
    ("train arch.yaml -o out --lr-rule role", 'Did you mean "roles"?'),
    ("eval model --probe recal", 'Did you mean "recall"?'),
    ("fron micro", "Did you mean 'front'?"),
    ("search tiny --data runs/micro", "is a study's folder, not a corpus (nas show runs/micro shows it"),
    ("data prepare arch.yaml", "is an architecture file, not a corpus (nas train arch.yaml"),
    ("show arch.yaml 3", "TRIAL = 3: has no meaning for an architecture file"),
    ("search tiny --trials 10k", "must be a whole number"),
    ("search tiny --workers 0", "must be at least 1"),
    # files that are there already
    ("pick micro --dir runs -o arch.yaml", "exists (name another file, or add --overwrite)"),
    ("space sample tiny -o arch.yaml", "exists (name another file, or add --overwrite)"),
    ("train arch.yaml -o runs", "exists and is not empty"),
    # options that don't go together
    ("search tiny -q -v", "can't be given with --verbose"),
    ("search tiny --timeout 5", "needs a unit: 5s, 5m or 5h"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(
    study_folder: Path, llama_folder: Path, architecture_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a space, an architecture, a design, a plan, a model and a study."""
    home = tmp_path_factory.mktemp("mistakes")
    for name, text in (("space", MICRO), ("design", DESIGN), ("plan", PLAN)):
        (home / f"{name}.yaml").write_text(text, encoding="utf-8")
    text = architecture_file.read_text(encoding="utf-8")
    (home / "arch.yaml").write_text(f"layout: FF\n{text}", encoding="utf-8")
    shutil.copytree(study_folder, home / "runs" / "micro")
    shutil.copytree(llama_folder, home / "model")
    return home


@pytest.mark.parametrize(("command", "says"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_recognised(
    command: str, says: str, folder: Path, nas: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(locate, "reachable", lambda endpoint: False)
    monkeypatch.setenv("COLUMNS", "300")
    before = sorted(path.name for path in folder.iterdir())
    result = nas(*command.split())
    assert result.exit_code == 2
    text = str(result.exception) if isinstance(result.exception, ValueError) else result.output
    assert says in " ".join(text.split())
    assert sorted(path.name for path in folder.iterdir()) == before


def test_no_mistake_loads_torch(folder: Path) -> None:
    """All of them in one process, which ends without torch."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from nas_cli import main\n"
        "from surgery.hf import locate\n"
        "from tests.nas_cli.test_mistakes import MISTAKES\n"
        "locate.reachable = lambda endpoint: False\n"
        "main.register()\n"
        "for command, _ in MISTAKES:\n"
        "    assert CliRunner().invoke(main.app, command.split()).exit_code != 0, command\n"
        "    assert 'torch' not in sys.modules, command\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": str(root), "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
