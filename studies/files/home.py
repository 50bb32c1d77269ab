"""Paths of caches."""

from __future__ import annotations

import os
from pathlib import Path

from surgery.config.paths import expand


def data_home() -> Path:
    """Return the folder of prepared text: `data` in the cache's home."""
    return _home() / "data"


def library_home() -> Path:
    """Return the folder of the libraries of pretrained models: `library` in the cache's home."""
    return _home() / "library"


def latency_home() -> Path:
    """Return the folder of tables of block times: `latency` in the cache's home."""
    return _home() / "latency"


def _home() -> Path:
    """Return `$NAS_HOME`, else `$XDG_CACHE_HOME/nas`, else `~/.cache/nas`."""
    if home := os.environ.get("NAS_HOME"):
        return expand(home)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "nas"
