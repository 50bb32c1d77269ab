"""Sketches of replacements: short vectors whose inner products predict how replacements interact.

A replacement i changes the teacher's logits by d_i. With the teacher's probabilities p, and as means over
tokens, to second order KL_i = Var_p(d_i) / 2 and KL_ij = KL_i + KL_j + Cov_p(d_i, d_j). A sketch has, for
some tokens and for some vocabulary entries v drawn from p, the features (d_i(v) - E_p d_i) / sqrt(2). Their
mean product over tokens and draws is an unbiased estimate of Cov_p(d_i, d_j) / 2. So with F, the features
divided by the root of their number, |F_i|^2 estimates KL_i, and 2 F_i F_j the interaction of both.

Loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search_spaces.replacements import Replacements
from studies.library.entries import Entry, entries_of
from surgery.files.atomic import replacing

SKETCHES = "sketches"


def read_sketch(folder: Path, parts: Replacements) -> tuple[list[tuple[str, str]], NDArray[np.float32]]:
    """Return the (part's name, label) of every replacement of a space, and F, one row for each.

    Args:
        folder: of the scores (`studies.library.text.scores_folder`), complete for this space.
        parts: the space.
    """
    entries = entries_of(parts)
    rows = [np.load(sketch_file(folder, entry)) for entry in entries.values()]
    features = np.stack(rows).astype(np.float32)
    return list(entries), features / np.float32(features.shape[1] ** 0.5)


def write_sketch(folder: Path, entry: Entry, features: NDArray[np.float32]) -> None:
    """Write the features of a replacement in half precision, before they are divided by anything."""
    file = sketch_file(folder, entry)
    file.parent.mkdir(exist_ok=True)
    largest = float(np.finfo(np.float16).max)
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, features.clip(-largest, largest).astype(np.float16))


def sketch_file(folder: Path, entry: Entry) -> Path:
    """Return the file of a replacement's sketch."""
    return folder / SKETCHES / f"{entry.name}.npy"


def predicted(features: NDArray[np.float32], rows: Sequence[int]) -> float:
    """Return the predicted KL divergence of several replacements at once in nats/token: |sum of F|^2."""
    return float(np.square(features[list(rows)].astype(np.float64).sum(0)).sum())
