"""Imports run downwards only, and reading a file of the user never waits for torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("surgery", "search_spaces", "studies", "nas_cli")  # from the ground up
HEAVY = ("torch", "optuna", "transformers", "datasets")
# rooms and files that must be quick to load
LIGHT_SURGERY = (
    "problems", "quantities", "yaml_source", "options", "backbone", "layout", "rules", "architecture",
    "costs",
)  # fmt: skip


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(tree: ast.AST, *, package: tuple[str, ...], top_only: bool) -> Iterator[tuple[str, int]]:
    """(absolute module name, line) of every import; with `top_only` those that run at load time."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name, child.lineno
        elif isinstance(child, ast.ImportFrom):
            base = package[: len(package) - child.level + 1] if child.level else ()
            yield ".".join((*base, child.module or "")).strip("."), child.lineno
        elif top_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif top_only and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from imported(other, package=package, top_only=True)
        else:
            yield from imported(child, package=package, top_only=top_only)


def offences(path: Path, forbidden: tuple[str, ...], *, top_only: bool) -> list[str]:
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for name, line in imported(tree, package=package, top_only=top_only)
        if name.split(".")[0] in forbidden
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_no_room_above_it(room: str) -> None:
    above = ROOMS[ROOMS.index(room) + 1 :]
    forbidden = (*above, "tests")
    assert [text for path in modules(room) for text in offences(path, forbidden, top_only=False)] == []


def test_the_terminal_loads_nothing_heavy() -> None:
    heavy = (*HEAVY, "numpy")
    assert [text for path in modules("nas_cli") for text in offences(path, heavy, top_only=True)] == []


def test_search_spaces_never_touch_anything_heavy() -> None:
    assert [text for path in modules("search_spaces") for text in offences(path, HEAVY, top_only=False)] == []


def test_reading_and_costing_an_architecture_is_free_of_torch() -> None:
    paths = [ROOT / "surgery" / f"{name}.py" for name in LIGHT_SURGERY]
    for kind in ("mixers", "projections"):
        folder = ROOT / "surgery" / kind
        paths += [folder / "__init__.py", folder / "base.py", *folder.glob("*/__init__.py")]
    assert [text for path in paths for text in offences(path, HEAVY, top_only=True)] == []


@pytest.mark.parametrize(
    "imports", ["surgery.architecture.architecture, surgery.architecture.costs", "search_spaces", "nas_cli"]
)
def test_a_fresh_process_stays_light(imports: str) -> None:
    code = (
        f"import {imports}, sys\n"
        f"print(*sorted(name for name in {HEAVY!r} if name in sys.modules))"
    )  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_the_check_sees_what_it_should(tmp_path: Path) -> None:
    source = (
        "import os.path, torch\nfrom .. import b\ndef f():\n    import optuna\n"
        "if TYPE_CHECKING:\n    import datasets\nclass C:\n    from transformers import x\n"
    )
    tree = ast.parse(source)
    at_load = dict(imported(tree, package=("studies", "data"), top_only=True))
    anywhere = dict(imported(tree, package=("studies", "data"), top_only=False))
    assert at_load == {"os.path": 1, "torch": 1, "studies": 2, "transformers": 8}
    assert anywhere == at_load | {"optuna": 4, "datasets": 6}
