"""The interface of a probe: a generated task that each architecture learns from scratch."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol


class Probe(Protocol):
    """Settings of one probe. Its fields in the space file set the difficulty of the task."""

    name: ClassVar[str]  # of the metric, and of the section in the file

    @property
    def steps(self) -> int:
        """Optimizer steps of training."""

    @property
    def batch(self) -> int:
        """Sequences per step."""

    @property
    def lr(self) -> float:
        """Peak learning rate of AdamW."""

    @property
    def seq_len(self) -> int:
        """Tokens per sequence."""

    @property
    def vocab_size(self) -> int:
        """Tokens of the task, numbered from 0."""

    @property
    def tokens(self) -> int:
        """Total training tokens."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing uniformly among the possible answers."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the space file."""
