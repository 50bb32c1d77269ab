"""Prints the oldest versions that pyproject.toml allows, as pip's requirements: `python tests/oldest.py`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+(\[[^]]*\])?)\s*(?P<bounds>[^;]*)(?P<marker>;.*)?")


def oldest(requirement: str) -> str:
    """Return `name>=1.2,<2` as `name==1.2`; a requirement without any bound as it is.

    Raises:
        ValueError: not a requirement, or one with bounds but no lower one that could be pinned.
    """
    match = _REQUIREMENT.fullmatch(requirement.strip())
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    bounds = [bound.strip() for bound in match["bounds"].split(",") if bound.strip()]
    lower = [bound[2:].strip() for bound in bounds if bound[:2] in (">=", "~=", "==")]
    if bounds and not lower:
        raise ValueError(f"no lower bound in {requirement!r}")
    return f"{match['name']}=={lower[0]}{match['marker'] or ''}" if bounds else requirement


def requirements() -> list[str]:
    """Return every dependency of the package and of its tests, each at its lower bound."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    return [oldest(item) for item in [*project["dependencies"], *project["optional-dependencies"]["test"]]]


if __name__ == "__main__":
    print("\n".join(requirements()))
