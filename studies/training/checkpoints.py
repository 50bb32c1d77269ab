"""Files that a training run resumes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from surgery.files.atomic import TEMPORARY, replacing


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically, so that a killed process leaves the old file or the new one."""
    with replacing(path, path.with_suffix(TEMPORARY)) as temporary:
        torch.save(state, temporary)


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `save_state` wrote, to the CPU."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
