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
DRAWS = 16  # vocabulary entries per token
SEED = 0
_FILE = "draws.npz"


class Perturbation:
    """The tokens and vocabulary entries of all sketches in one folder, and the teacher's logits there."""

    def __init__(self, folder: Path) -> None:
        """Describe the folder without touching it."""
        self.folder = folder

    def begin(self, wanted: Float[Tensor, "n t d"], head: Float[Tensor, "v d"]) -> None:
        """Draw the tokens and entries, or read those that an earlier process has drawn.

        Args:
            wanted: the teacher's normed outputs on all tokens.
            head: weight of the head in float32.
        """
        self.head = head
        file = self.folder / _FILE
        if not file.is_file():
            rows = _spread(wanted.shape[0] * wanted.shape[1])
            draws = _draw(wanted.flatten(0, 1)[rows.to(wanted.device)], head)
            with replacing(file) as temporary, temporary.open("wb") as stream:
                np.savez(stream, rows=rows.numpy(), draws=draws.cpu().numpy())
        with np.load(file) as stored:
            self.rows = torch.from_numpy(stored["rows"]).to(wanted.device)
            self.draws = torch.from_numpy(stored["draws"]).to(wanted.device)
        self.wanted = wanted.flatten(0, 1)[self.rows]

    @torch.no_grad()
    def features(
        self, hidden: Float[Tensor, "n t d"], change: Float[Tensor, "n t"]
    ) -> Float[Tensor, "m draws"]:
        """Return (d(v) - E_p d) / sqrt(2), d being the change of the logits at each token's entries v.

        Args:
            hidden: the model's normed outputs on all tokens.
            change: E_p d of all tokens.
        """
        moved = hidden.flatten(0, 1)[self.rows] - self.wanted
        mean = change.flatten()[self.rows, None]
        parts = [
            torch.einsum("md,msd->ms", moved[rows], self.head[self.draws[rows]])
            for rows in chunks(len(moved), DRAWS * self.head.shape[1], self.head.device)
        ]
        drawn = torch.cat(parts)
        return (drawn - mean) * math.sqrt(0.5)

    def write(self, entry: Entry, hidden: Float[Tensor, "n t d"], change: Float[Tensor, "n t"]) -> None:
        """Write the sketch of a replacement; arguments as in `features`."""
        write_sketch(self.folder, entry, self.features(hidden, change).flatten().cpu().numpy())


def _spread(tokens: int) -> Int[Tensor, " m"]:
    """Return at most TOKENS indices, drawn without replacement."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randperm(tokens, generator=generator)[:TOKENS].sort().values


@torch.no_grad()
def _draw(hidden: Float[Tensor, "m d"], head: Float[Tensor, "v d"]) -> Int[Tensor, "m draws"]:
    """Draw entries of the vocabulary from the teacher's distributions, by inverting their sums."""
    generator = torch.Generator().manual_seed(SEED)
    uniform = torch.rand(len(hidden), DRAWS, dtype=torch.float64, generator=generator).to(hidden.device)
    parts = []
    for rows in chunks(len(hidden), len(head), head.device):
        sums = (hidden[rows] @ head.T).double().softmax(-1).cumsum(-1)
        parts.append(torch.searchsorted(sums, uniform[rows] * sums[:, -1:]).clamp(max=len(head) - 1))
    return torch.cat(parts)
