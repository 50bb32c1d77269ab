"""Paths as users write them on a command line and in files."""

from __future__ import annotations

import os
from pathlib import Path


def expand(path: str | os.PathLike[str]) -> Path:
    """Return the path with a leading `~` or `~user` replaced; unchanged if that user has no home."""
    return Path(os.path.expanduser(path))
