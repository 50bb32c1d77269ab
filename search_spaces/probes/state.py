"""The state probe: how the test of state tracking is set, where `state` is an objective."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from surgery.config.options import Cursor, Option, read_options

METRIC = "state"


@dataclass(frozen=True)
class Group:
    """Permutations of `letters` things, all of them or the even ones only."""

    letters: int
    even_only: bool = False

    @property
    def order(self) -> int:
        """How many there are."""
        return math.factorial(self.letters) // (2 if self.even_only else 1)


# From a single bit to a5 and s5, which are not solvable: their word problem is complete for NC1 (Barrington
# 1989), so no stack of attention or of diagonal linear recurrences solves it at every length, unless NC1 is
# TC0 (Merrill et al. 2024, arXiv 2404.08819).
GROUPS = {
    "parity": Group(2),
    "s3": Group(3),
    "s4": Group(4),
    "a5": Group(5, even_only=True),
    "s5": Group(5),
}


@dataclass(frozen=True)
class State:
    """Difficulty and budget of state tracking.

    Attributes:
        group: a key of GROUPS; its elements are the tokens.
        length: elements of a word.
        steps, batch: of the training, batch in words.
        lr: peak learning rate.
    """

    name: ClassVar[str] = METRIC

    group: str
    length: int
    steps: int
    batch: int
    lr: float

    @property
    def seq_len(self) -> int:
        """Tokens of a word with the one before it."""
        return 1 + self.length

    @property
    def tokens(self) -> int:
        """Trained on in all, the starts included."""
        return self.steps * self.batch * self.seq_len

    @property
    def start(self) -> int:
        """The token before each word; the elements of the group are those below it."""
        return GROUPS[self.group].order

    @property
    def vocab_size(self) -> int:
        return 1 + self.start

    @property
    def chance(self) -> float:
        """Accuracy of guessing evenly among the elements of the group."""
        return 1 / GROUPS[self.group].order

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# With these two layers of width 64 have, as a mean of three seeds, 0.63 as full attention, 0.78 as Gated
# DeltaNet and 1.00 as Gated DeltaNet with negative eigenvalues, in some 15 s on one core. Larger groups want
# more steps: of s3 in words of 16 a GRU makes no mistake after as many, Gated DeltaNet has 0.35.
OPTIONS = {
    "group": Option(str, "parity", choices=tuple(GROUPS), help="whose elements are the tokens"),
    "length": Option(int, 32, low=2, help="elements of a word"),
    "steps": Option(int, 400, low=1, help="optimizer steps"),
    "batch": Option(int, 32, low=1, help="words of an optimizer step"),
    "lr": Option(float, 2e-3, low=1e-8, high=1.0, help="peak learning rate of AdamW"),
}


def read_state(data: object, cursor: Cursor) -> State | None:
    """From a mapping, defaults filled in; None with problems."""
    before = len(cursor.problems.entries)
    values = read_options(data, OPTIONS, cursor)
    return State(**values) if len(cursor.problems.entries) == before else None
