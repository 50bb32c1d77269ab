"""Files that a training run resumes from."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from surgery.files.atomic import TEMPORARY, replacing


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically, so that a killed process leaves the old file or the new one.

    Raises:
        OSError: it can't be written, such as on a full disk.
    """
    with replacing(path, path.with_suffix(TEMPORARY)) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's writer has no class of its own for it
            raise OSError(errno.EIO, f"torch could not write it: {error}", str(path)) from error


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `save_state` wrote, to the CPU."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
