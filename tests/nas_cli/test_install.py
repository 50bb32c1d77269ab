"""The wheel: it has every file, runs in a fresh environment, and notices other packages in its way."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer

from nas_cli.intact import MARK, PACKAGES, foreign_packages

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("nas_cli", *PACKAGES)


def install(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f'"""A package; {MARK}."""\n')


def test_this_checkout_is_intact() -> None:
    assert foreign_packages() == []


def test_packages_of_others_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["nas_intact", "nas_replaced", "nas_elsewhere", "nas_removed"]
    install(tmp_path / "site", *names)
    install(tmp_path / "other", "nas_elsewhere")
    (tmp_path / "site" / "nas_replaced" / "__init__.py").write_text('__version__ = "0.1.3"\n')
    (tmp_path / "site" / "nas_removed" / "__init__.py").unlink()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "other"), str(tmp_path / "site"), *sys.path])
    assert foreign_packages([*names, "nas_absent"], tmp_path / "site") == [
        f"nas_replaced: {tmp_path}/site/nas_replaced/__init__.py is not a file of nas",
        f"nas_elsewhere: {tmp_path}/other/nas_elsewhere/__init__.py is not a file of nas",
        f"nas_removed: {tmp_path}/site/nas_removed/__init__.py is missing",
        f"nas_absent: {tmp_path}/site/nas_absent/__init__.py is missing",
    ]


def pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the files that git knows."""
    pytest.importorskip("pip", reason="needs pip to build a wheel")
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", *NAMES, "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tracked.returncode != 0:
        pytest.skip("needs a git checkout")
    for name in filter(None, tracked.stdout.split("\0")):
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    pip("wheel", "--no-deps", "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    source = wheel.parent / "source"
    files = [path for name in NAMES for path in (source / name).rglob("*.*") if path.is_file()]
    missing = [str(path.relative_to(source)) for path in files if str(path.relative_to(source)) not in packed]
    assert missing == []
    assert {"surgery/py.typed", "search_spaces/presets/tiny.yaml", "studies/replay/table.yaml"} <= packed
    assert not any(name.startswith("tests/") for name in packed)


@pytest.mark.slow
def test_the_wheel_runs_in_a_fresh_environment_and_notices_another_surgery(
    wheel: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    pip("--python", python, "install", "--no-deps", wheel)
    (site,) = (tmp_path / "env" / "lib").glob("*/site-packages")
    # what it needs is taken from this environment
    (site / "base.pth").write_text(f"{Path(typer.__file__).parents[1]}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def nas(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python.with_name("nas"), *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert " search " in nas("--help").stdout
    listed = nas("space", "list")
    assert listed.returncode == 0
    assert "pretrained-tiny" in listed.stdout
    (site / "surgery" / "__init__.py").write_text('__version__ = "0.1.3"\n')  # as PyPI's surgery does
    refused = nas("space", "list")
    assert refused.returncode == 2
    assert f"surgery: {site}/surgery/__init__.py is not a file of nas" in refused.stderr
    assert "Traceback" not in refused.stderr
