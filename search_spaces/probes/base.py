"""What a probe is: a generated task that each architecture learns anew, with a budget beside the proxy's."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol


class Probe(Protocol):
    """Settings of one probe; its own fields, those of the space file, say how hard the task is."""

    name: ClassVar[str]  # of the metric, and of the section in the file

    @property
    def steps(self) -> int:
        """Optimizer steps of the training."""

    @property
    def batch(self) -> int:
        """Sequences of a step."""

    @property
    def lr(self) -> float:
        """Peak learning rate of AdamW."""

    @property
    def seq_len(self) -> int:
        """Tokens of a sequence."""

    @property
    def vocab_size(self) -> int:
        """Tokens of the task, numbered from 0."""

    @property
    def tokens(self) -> int:
        """Trained on in all."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing evenly among the tokens that can be an answer."""

    def to_dict(self) -> dict[str, Any]:
        """The fields of the space file."""
