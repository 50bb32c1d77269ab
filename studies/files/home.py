"""Paths of caches."""

from __future__ import annotations

import os
from pathlib import Path

from surgery.config.paths import expand


def data_home() -> Path:
    """Return `$NAS_HOME/data`, else `$XDG_CACHE_HOME/nas/data`, else `~/.cache/nas/data`."""
    if home := os.environ.get("NAS_HOME"):
        return expand(home) / "data"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "nas" / "data"
