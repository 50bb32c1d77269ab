"""The number of CPU threads of a training process, by a fixed rule and never by timing: another number of
threads sums in another order and changes the last bits of a loss."""

from __future__ import annotations

import os

from studies.training.cores import cores
from surgery.config.backbone import Backbone

NARROW = 256  # below this width one thread: operators are too short to parallelize, above all on busy cores


def choose_threads(asked: int | None, backbone: Backbone, workers: int = 1) -> int:
    """Return the threads of each of `workers` processes: the number asked for, else OMP_NUM_THREADS, else one
    for a narrow model and an equal share of the cores for a wide one."""
    if asked is not None:
        return asked
    set_by_user = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if set_by_user.isdecimal() and int(set_by_user) > 0:
        return int(set_by_user)
    return 1 if backbone.dim < NARROW else max(1, cores() // workers)
