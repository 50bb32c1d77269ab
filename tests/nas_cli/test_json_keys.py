"""docs/reference/json.md lists the keys that `--json` prints: all of them, and no others."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from studies.study import Study
from tests.pages import ROOT
from tests.picks import pick_trial

Nas = Callable[..., Result]
PAGE = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")


def documented(section: str) -> set[str]:
    """Keys in the first column of the tables under this heading."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {key for cell in first for key in re.findall(r"`([^`]+)`", cell)}


def keys_at(value: Any, path: str) -> set[str]:
    """Keys of the mappings at a path such as `a[].b`; of all items of a list together."""
    values = [value]
    for part in filter(None, re.split(r"\.", path)):
        name = part.removesuffix("[]")
        values = [item[name] for item in values] if name else values
        if part.endswith("[]"):
            values = [item for items in values for item in items]
    assert values, f"nothing at {path}"
    return {key for item in values for key in item}


def compare(section: str, value: Any, more: tuple[str, ...] = (), *, but: tuple[str, ...] = ()) -> None:
    """`more`: sections whose keys it has too. `but`: keys that are names, which the page does not list."""
    listed = set().union(*(documented(name) for name in (section, *more)))
    parents: dict[str, set[str]] = {}
    for path in listed:
        parent, _, key = path.rpartition(".")
        parents.setdefault(parent, set()).add(key)
    if "" in parents:
        nested = {path.split(".")[0].removesuffix("[]") for path in listed if "." in path}
        parents[""] |= nested - {""}
    for parent, keys in parents.items():
        assert keys_at(value, parent) - set(but) == keys, f"{section}: {parent or 'top'}"


@pytest.fixture(scope="module")
def printed(nas: Nas) -> Callable[..., Any]:
    def run(*args: object) -> Any:
        result = nas(*args, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


@pytest.fixture
def study(study_folder: Path, tmp_path: Path) -> tuple[str, ...]:
    """A copy in which something is picked."""
    copy = Study.open(str(shutil.copytree(study_folder, tmp_path / study_folder.name)))
    pick_trial(copy, 0)
    return (copy.name, "--dir", str(tmp_path))


def test_studies(printed: Callable[..., Any], study: tuple[str, ...]) -> None:
    compare("nas studies", printed("studies", *study[1:]))


def test_front_and_pick(printed: Callable[..., Any], study: tuple[str, ...]) -> None:
    front = printed("front", *study, "--all")
    compare("nas front", front, but=("val_loss",))
    compare("Standing", front["front"][0], ("Trial",))
    compare("nas pick", printed("pick", *study), ("Standing", "Trial"))


def test_show(printed: Callable[..., Any], study: tuple[str, ...], architecture_file: Path) -> None:
    shown = printed("show", *study)
    compare("nas show STUDY", shown)
    compare("Trial", shown["trials"][0])
    compare("nas show STUDY TRIAL", printed("show", study[0], 0, *study[1:]), ("Standing", "Trial"))
    compare("nas show ARCH", printed("show", architecture_file))


def test_doctor(printed: Callable[..., Any], study_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study_folder, tmp_path / study_folder.name)
    compare("nas doctor", printed("doctor", copy, "--repair"))


def test_audit(printed: Callable[..., Any], study_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(
        study_folder, tmp_path / study_folder.name
    )  # an audit leaves its runs in the study
    compare("nas audit", printed("audit", copy, "--times", 2, "--architectures", 4, "--device", "cpu"))


def test_models(
    printed: Callable[..., Any],
    llama_folder: Path,
    model_folder: Path,
    prepared: Path,
    architecture_file: Path,
    tmp_path: Path,
) -> None:
    design = tmp_path / "design.yaml"
    design.write_text("projections: [{match: [q], operator: hdpl, blocks: 2, rank: 4}]")
    compare("nas apply", printed("apply", design, llama_folder, "--dry-run"))
    text = ("--data", prepared, "--tokens", 256, "--device", "cpu")
    compare("nas eval", printed("eval", llama_folder, "--retrieval", 1, "--seq-len", 250, *text[:-2]))
    probe = ("--probe", "recall", "--pairs", 2, "--steps", 2, "--batch-sequences", 2, "--device", "cpu")
    compare("nas eval --probe", printed("eval", architecture_file, *probe))
    train = (
        "--data",
        prepared,
        "--tokens",
        512,
        "--seq-len",
        32,
        "--batch-tokens",
        256,
        "--eval-tokens",
        256,
    )
    out = ("-o", tmp_path / "trained", "--device", "cpu")
    compare("nas train", printed("train", architecture_file, *train, *out))


def test_latents(
    printed: Callable[..., Any], model_folder: Path, prepared: Path, text_file: Path, tmp_path: Path
) -> None:
    read = ("--tokens", 64)
    compare("nas latents show", printed("latents", "show", model_folder, "--data", prepared, *read))
    sides = ("--having", prepared, "--lacking", text_file)
    out = ("-o", tmp_path / "contrast")
    compare("nas latents contrast", printed("latents", "contrast", model_folder, *sides, *out, *read))
    train = ("--data", prepared, "--tokens", 512, "--batch-tokens", 256, "--eval-tokens", 256)
    out = ("-o", tmp_path / "trained")
    compare("nas latents train", printed("latents", "train", model_folder, *train, *out))


def test_spaces(printed: Callable[..., Any]) -> None:
    compare("nas space list", printed("space", "list"))
    compare("nas space show", printed("space", "show", "tiny"))
    compare("nas space validate", printed("space", "validate", "tiny"))
    compare("nas space sample", printed("space", "sample", "tiny", "--number", 1))


def test_data(
    printed: Callable[..., Any], prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path))
    compare("nas data info", printed("data", "info"))
    compare("nas data info CORPUS", printed("data", "info", "builtin"))
    compare("nas data info FOLDER", printed("data", "info", prepared))


def test_every_command_with_json_has_a_section() -> None:
    sections = re.findall(r"^## nas (.+)$", PAGE, flags=re.MULTILINE)
    for path in sorted((ROOT / "nas_cli").rglob("*.py")):
        if "as_json: JsonOption" in path.read_text(encoding="utf-8"):
            name = {"evaluate": "eval"}.get(path.stem, path.stem)
            name = "bench" if path.parent.name.startswith("bench") else name
            assert any(section.split()[0] == name for section in sections), path
