"""Computing the sketches of replacements (`studies.library.sketch`)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from studies.library.divergence import chunks
from studies.library.entries import Entry
from studies.library.sketch import write_sketch
from surgery.files.atomic import replacing

TOKENS = 4096  # of a sketch
FEATURES = 65_536  # of a sketch: vocabulary entries of all its tokens
SEED = 0
_FILE = "draws.npz"


class Perturbation:
    """The tokens and vocabulary entries of all sketches in one folder, and the teacher's logits there."""

    def __init__(self, folder: Path) -> None:
        """Describe the folder without touching it."""
        self.folder = folder

    def begin(self, wanted: Float[Tensor, "m d"], head: Float[Tensor, "v d"]) -> None:
        """Draw the tokens and entries, or read those that an earlier process has drawn.

        Args:
            wanted: the teacher's normed outputs, where its predictions count.
            head: weight of the head in float32.
        """
        self.head = head
        file = self.folder / _FILE
        if not file.is_file():
            rows = _spread(len(wanted))
            draws = _draw(wanted[rows.to(wanted.device)], head, max(1, FEATURES // len(rows)))
            with replacing(file) as temporary, temporary.open("wb") as stream:
                np.savez(stream, rows=rows.numpy(), draws=draws.cpu().numpy())
        with np.load(file) as stored:
            self.rows = torch.from_numpy(stored["rows"]).to(wanted.device)
            self.draws = torch.from_numpy(stored["draws"]).to(wanted.device)
        self.wanted = wanted[self.rows]

    @torch.no_grad()
    def features(self, hidden: Float[Tensor, "m d"], change: Float[Tensor, " m"]) -> Float[Tensor, "k draws"]:
        """Return (d(v) - E_p d) / sqrt(2), d being the change of the logits at each token's entries v.

        Args:
            hidden: the model's normed outputs, where its predictions count.
            change: E_p d of the same tokens.
        """
        moved = hidden[self.rows] - self.wanted
        mean = change[self.rows, None]
        draws = self.draws.shape[1]
        parts = [
            torch.einsum("md,msd->ms", moved[rows], self.head[self.draws[rows]])
            for rows in chunks(len(moved), draws * self.head.shape[1], self.head.device)
        ]
        drawn = torch.cat(parts)
        return (drawn - mean) * math.sqrt(0.5)

    def write(self, entry: Entry, hidden: Float[Tensor, "m d"], change: Float[Tensor, " m"]) -> None:
        """Write the sketch of a replacement; arguments as in `features`."""
        write_sketch(self.folder, entry, self.features(hidden, change).flatten().cpu().numpy())


def _spread(tokens: int) -> Int[Tensor, " m"]:
    """Return at most TOKENS indices, drawn without replacement."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randperm(tokens, generator=generator)[:TOKENS].sort().values


@torch.no_grad()
def _draw(hidden: Float[Tensor, "m d"], head: Float[Tensor, "v d"], count: int) -> Int[Tensor, "m draws"]:
    """Draw entries of the vocabulary from the teacher's distributions, by inverting their sums."""
    generator = torch.Generator().manual_seed(SEED)
    uniform = torch.rand(len(hidden), count, dtype=torch.float64, generator=generator).to(hidden.device)
    parts = []
    for rows in chunks(len(hidden), len(head), head.device):
        sums = (hidden[rows] @ head.T).double().softmax(-1).cumsum(-1)
        parts.append(torch.searchsorted(sums, uniform[rows] * sums[:, -1:]).clamp(max=len(head) - 1))
    return torch.cat(parts)
