"""Computing the sketches of replacements (`studies.library.sketch`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from studies.library.entries import Entry
from studies.library.sketch import write_sketch
from surgery.files.atomic import replacing

TOKENS = 4096  # of a sketch
DRAWS = 16  # vocabulary entries per token
CHUNK_LOGITS = 2**22  # that are compared at once
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
    def features(self, hidden: Float[Tensor, "n t d"]) -> Float[Tensor, "m draws"]:
        """Return (d(v) - E_p d) / sqrt(2), d being the change of the logits at each token's entries v."""
        ours = hidden.flatten(0, 1)[self.rows]
        parts = []
        for chunk in _chunks(len(ours), len(self.head)):
            logits = self.wanted[chunk] @ self.head.T
            change = ours[chunk] @ self.head.T - logits
            mean = (logits.softmax(-1) * change).sum(-1, keepdim=True)
            parts.append((change.gather(1, self.draws[chunk]) - mean) * 0.5**0.5)
        return torch.cat(parts)

    def write(self, entry: Entry, hidden: Float[Tensor, "n t d"]) -> None:
        """Write the sketch of a replacement, given the model's normed outputs with it."""
        write_sketch(self.folder, entry, self.features(hidden).flatten().cpu().numpy())


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
    for chunk in _chunks(len(hidden), len(head)):
        sums = (hidden[chunk] @ head.T).double().softmax(-1).cumsum(-1)
        parts.append(torch.searchsorted(sums, uniform[chunk] * sums[:, -1:]).clamp(max=len(head) - 1))
    return torch.cat(parts)


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    return [slice(start, start + size) for start in range(0, tokens, size)]
