"""Imports run downwards only, between rooms and inside them; reading a user's file never waits for torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("surgery", "search_spaces", "studies", "nas_cli")  # from the ground up
HEAVY = ("torch", "optuna", "transformers", "datasets")
# What each room of `studies` may import of the others, in the order of docs/architecture.md.
STUDIES: dict[str, tuple[str, ...]] = {
    "files": (),
    "stats": (),
    "storage": (),
    "data": ("files",),
    "selection": ("stats",),
    "surrogates": ("stats",),
    "study": ("data", "files", "stats", "storage"),
    "training": ("data", "files", "stats"),
    "analysis": ("data", "stats", "storage", "study"),
    "probes": ("files", "training"),
    "evaluation": ("data", "training"),
    "healing": ("data", "files", "training"),
    "latency": ("files", "training"),
    "library": ("data", "evaluation", "files", "healing", "training"),
    "latents": ("data", "evaluation", "healing", "training"),
    "reporting": ("analysis", "files", "library", "stats", "storage", "study"),
    "tracking": ("files", "healing", "study", "training"),
    "search": ("analysis", "files", "selection", "stats", "storage", "study", "surrogates"),
    "workers": (
        "data", "files", "healing", "latency", "library", "probes", "reporting", "search", "stats", "storage",
        "study", "training",
    ),
    "audit": (
        "data", "files", "healing", "library", "reporting", "stats", "storage", "study", "training",
        "workers",
    ),
    "replay": ("data", "search", "stats", "storage", "study", "surrogates", "training", "workers"),
    "benchmarks": (
        "data", "files", "latency", "replay", "reporting", "search", "stats", "storage", "study",
        "surrogates", "training", "workers",
    ),
}  # fmt: skip
# What each room promises not to load, anywhere in it.
WITHOUT: dict[str, tuple[str, ...]] = {
    "files": ("torch", "optuna", "transformers", "datasets", "numpy"),
    "stats": ("torch",),
    "surrogates": ("torch", "optuna"),
    "selection": ("torch", "optuna"),
    "study": ("torch",),
    "training": ("optuna",),
    "healing": ("optuna",),
    "latency": ("optuna",),
    "library": ("optuna",),
    "latents": ("optuna",),
    "search": ("torch",),
}
WITHOUT_AT_LOAD: dict[str, tuple[str, ...]] = {
    "stats": ("scipy",),
    "data": ("torch",),
    "analysis": ("torch", "scipy"),
    "search": ("scipy",),
    "selection": ("scipy",),
    "audit": ("scipy",),
    "tracking": ("torch", "tensorboard", "wandb", "mlflow", "trackio"),
}
# rooms and files that must be quick to load
LIGHT_SURGERY = (
    "config/problems", "config/quantities", "config/yaml_source", "config/options", "config/backbone",
    "config/rope_scaling", "config/recognise",
    "architecture/__init__", "architecture/architecture", "architecture/layers", "architecture/layout",
    "architecture/naming", "architecture/reading", "architecture/rules", "architecture/metrics",
    "architecture/costs", "architecture/timed_parts", "architecture/block_times",
    "files/atomic", "files/lock", "files/outputs",
)  # fmt: skip
# the only modules that may use names that Optuna keeps private
OPTUNA_ADAPTERS = (
    "studies/storage/optuna_access.py", "studies/storage/journal_entries.py", "studies/stats/hypervolume.py",
)  # fmt: skip
PRIVATE_OPTUNA = re.compile(r"\._storage\b(?! import)|\._trial_id\b|\._study_id\b|\boptuna\._")


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
        if any(name == root or name.startswith(f"{root}.") for root in forbidden)
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_no_room_above_it(room: str) -> None:
    above = ROOMS[ROOMS.index(room) + 1 :]
    forbidden = (*above, "tests")
    assert [text for path in modules(room) for text in offences(path, forbidden, top_only=False)] == []


def test_studies_has_the_rooms_of_the_table_and_no_loose_file() -> None:
    folders = {path.parent.name for path in (ROOT / "studies").glob("*/__init__.py")}
    assert folders == STUDIES.keys()
    assert [path.name for path in (ROOT / "studies").glob("*.py")] == ["__init__.py"]


def test_the_table_is_that_of_the_documentation() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Rooms of `studies`")[2]
    rows = re.findall(r"^\| `(\w+)` \|([\w, ]*)\|", table, re.MULTILINE)
    assert {room: tuple(sorted(filter(None, names.strip().split(", ")))) for room, names in rows} == STUDIES


@pytest.mark.parametrize("room", STUDIES)
def test_a_room_of_studies_imports_what_the_table_allows(room: str) -> None:
    others = tuple(f"studies.{name}" for name in STUDIES if name != room and name not in STUDIES[room])
    paths = modules(f"studies/{room}")
    assert [text for path in paths for text in offences(path, others, top_only=False)] == []


@pytest.mark.parametrize("room", WITHOUT)
def test_a_room_of_studies_keeps_its_promise(room: str) -> None:
    paths = modules(f"studies/{room}")
    assert [text for path in paths for text in offences(path, WITHOUT[room], top_only=False)] == []


@pytest.mark.parametrize("room", WITHOUT_AT_LOAD)
def test_a_room_of_studies_loads_nothing_heavy(room: str) -> None:
    paths = modules(f"studies/{room}")
    assert [text for path in paths for text in offences(path, WITHOUT_AT_LOAD[room], top_only=True)] == []


def graph() -> dict[str, set[str]]:
    """Module -> modules of this project that it imports, in functions and for type checking too."""
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for room in ROOMS
        for path in modules(room)
    }
    edges: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = {item if item in names else node.module for item in whole}
                edges[name] |= {item for item in targets if item in names and item != name}
            elif isinstance(node, ast.Import):
                edges[name] |= {alias.name for alias in node.names if alias.name in names}
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected sets of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    result: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                result.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return result


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(graph()) == []


def test_no_room_calls_the_terminal_by_a_string() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for room in ROOMS[:-1]
        for path in modules(room)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "nas_cli" in node.value
    ] == []


def test_private_names_of_optuna_stay_in_the_adapter() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for room in ROOMS
        for path in modules(room)
        if str(path.relative_to(ROOT)) not in OPTUNA_ADAPTERS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PRIVATE_OPTUNA.search(line)
    ] == []


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
    "imports", ["surgery.architecture, surgery.architecture.costs", "search_spaces", "nas_cli"]
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
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert PRIVATE_OPTUNA.search("study.inner._storage.get_trial(x)")
