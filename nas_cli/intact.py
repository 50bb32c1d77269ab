"""Check that the packages of nas are its own: other distributions use the same top-level names."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("surgery", "search_spaces", "studies")
MARK = "part of nas-cli"  # in the `__init__.py` of each
PATHS = Path(__file__).resolve().parents[1]

_REMEDY = """\
Another distribution, such as PyPI's `surgery`, installs a folder of that name, or removed it with its own.
Give nas an environment of its own:
  python -m venv nas-env && nas-env/bin/pip install nas-cli
or, in this one, uninstall the other and restore the files of nas:
  pip uninstall surgery && pip install --force-reinstall --no-deps nas-cli"""


def foreign_packages(packages: Iterable[str] = PACKAGES, folder: Path = PATHS) -> list[str]:
    """Return a line for each package whose files are not those of nas. Imports none of them.

    Args:
        packages: names of the packages.
        folder: the folder that holds them.
    """
    lines = []
    for name in packages:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            lines.append(f"{name}: {folder / name / '__init__.py'} is missing")
            continue
        path = Path(spec.origin).resolve()
        if path.parent.parent != folder or MARK not in path.read_text(encoding="utf-8", errors="replace"):
            lines.append(f"{name}: {path} is not a file of nas")
    return lines


def complaint() -> str:
    """Return what is wrong with the installation, and how to repair it; empty if nothing is."""
    lines = foreign_packages()
    if not lines:
        return ""
    return "\n".join(["error: this installation of nas is mixed with another package", *lines, _REMEDY])
