"""The recall probe (MQAR): settings of the associative-recall task, used if `recall` is an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from surgery.config.options import Cursor, Option, read_options

METRIC = "recall"
SMALLEST = 4  # alphabet
FILLER = 0  # the token between queried keys; the alphabet follows it


@dataclass(frozen=True)
class Recall:
    """Difficulty and budget of multi-query associative recall (MQAR).

    Attributes:
        pairs: key-value pairs that a sequence shows and then queries.
        seq_len: tokens per sequence; queries are spread over what pairs and distance leave of it.
        alphabet: tokens taken from the vocabulary, the lower half as keys, the upper half as values.
        steps: optimizer steps.
        batch: sequences per step.
        lr: peak learning rate.
        distance: filler tokens between the last pair and the first position of a query.
    """

    name: ClassVar[str] = METRIC

    pairs: int
    seq_len: int
    alphabet: int
    steps: int
    batch: int
    lr: float
    distance: int = 0

    @property
    def tokens(self) -> int:
        """Total training tokens, including filler."""
        return self.steps * self.batch * self.seq_len

    @property
    def shortest(self) -> int:
        """Tokens needed for the pairs, the distance and the queries."""
        return 3 * self.pairs + self.distance

    @property
    def vocab_size(self) -> int:
        """Tokens of the task: the alphabet and the filler."""
        return FILLER + 1 + self.alphabet

    @property
    def chance(self) -> float:
        """Accuracy of guessing uniformly among the values."""
        return 2 / self.alphabet

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the space file."""
        return asdict(self)


# With these, full attention of width 96 learns the task in a third of the steps; half a minute on one core.
OPTIONS = {
    "pairs": Option(int, 8, low=1, help="key-value pairs to remember"),
    "seq_len": Option(int, 48, low=3, help="tokens per sequence, at least 3 per pair"),
    "alphabet": Option(int, 16, low=SMALLEST, help="tokens: one half keys, the other half values"),
    "steps": Option(int, 400, low=1, help="optimizer steps"),
    "batch": Option(int, 16, low=1, help="sequences per optimizer step"),
    "lr": Option(float, 2e-3, low=1e-8, high=1.0, help="peak learning rate of AdamW"),
    "distance": Option(int, 0, low=0, help="filler tokens between the pairs and the first query"),
}


def with_room(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` with a missing alphabet or seq_len set so that the pairs and the distance fit.

    As in the defaults, seq_len allows six tokens per pair, half of them filler, plus the distance.
    """
    pairs, distance = (given.get(name, OPTIONS[name].default) for name in ("pairs", "distance"))
    alphabet = max(OPTIONS["alphabet"].default, 2 * pairs)
    seq_len = max(OPTIONS["seq_len"].default, 6 * pairs) + distance
    return {"alphabet": alphabet, "seq_len": seq_len, **given}


def read_recall(data: object, vocab_size: int | None, cursor: Cursor) -> Recall | None:
    """Read a section, filling in defaults; None after adding problems."""
    before = len(cursor.problems.entries)
    values = read_options(data, OPTIONS, cursor)
    if len(cursor.problems.entries) > before:
        return None
    recall = Recall(**values)
    shown_and_queried = 3 * recall.pairs
    if recall.seq_len < shown_and_queried:
        rule = f"don't fit seq_len {recall.seq_len}: each takes 3 tokens (key, value, queried key)"
        hint = f"at most {recall.seq_len // 3} pairs, or seq_len {recall.shortest} at least"
        cursor.at("pairs").problem(recall.pairs, rule, hint)
    elif recall.seq_len < recall.shortest:
        rule = f"does not fit seq_len {recall.seq_len}: pairs and queries take {shown_and_queried} of it"
        hint = f"at most {recall.seq_len - shown_and_queried}, or seq_len {recall.shortest} at least"
        cursor.at("distance").problem(recall.distance, rule, hint)
    if recall.alphabet % 2:
        hint = f"write {recall.alphabet - 1} or {recall.alphabet + 1}"
        cursor.at("alphabet").problem(recall.alphabet, "must be even: half are keys, half are values", hint)
    elif recall.pairs > recall.alphabet // 2:
        rule = f"need as many keys, but half of the alphabet is {recall.alphabet // 2}"
        cursor.at("pairs").problem(recall.pairs, rule, f"write alphabet: {2 * recall.pairs}")
    if vocab_size is not None and recall.alphabet >= vocab_size:
        rule = f"and the filler must fit the backbone's vocab_size ({vocab_size})"
        largest = (vocab_size - 1) // 2 * 2
        hint = f"at most {largest}" if largest >= SMALLEST else "use a larger vocabulary"
        cursor.at("alphabet").problem(recall.alphabet, rule, hint)
    return recall if len(cursor.problems.entries) == before else None
