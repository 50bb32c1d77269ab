"""Settings of a pretrained model's library: how its replacements are fitted and measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from surgery.config.options import Cursor
from surgery.config.quantities import parse_count

_COUNTS = {
    "fit_tokens": "tokens of text that replacements are fitted to",
    "align_tokens": "tokens of text that fitted replacements are then trained on, all at once; 0: none",
    "seq_len": "tokens per sequence",
    "score_tokens": "held-out tokens that each replacement is scored on",
    "eval_tokens": "held-out tokens that each whole design is measured on",
    "prompts": "generated prompts of each retrieval task per design; 0: no retrieval",
    "score_prompts": "prompts of each retrieval task that each replacement is scored on; 0: on text alone",
}
_MAY_BE_ZERO = ("align_tokens", "prompts", "score_prompts")


@dataclass(frozen=True)
class LibrarySettings:
    """Settings for making and measuring the replacements of a pretrained model's parts.

    Attributes:
        fit_tokens: text of the fits and transplants, in tokens.
        align_tokens: text of the alignment after them, in tokens.
        seq_len: length of all sequences, in tokens.
        score_tokens: held-out text of a score, in tokens.
        eval_tokens: held-out text of a design's loss and KL divergence, in tokens.
        prompts: prompts of each retrieval task that designs answer.
        score_prompts: prompts of each retrieval task that single replacements are scored on.
    """

    fit_tokens: int = 32_768
    align_tokens: int = 0
    seq_len: int = 512
    score_tokens: int = 16_384
    eval_tokens: int = 65_536
    prompts: int = 0
    score_prompts: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return all settings."""
        return asdict(self)


def read_library(data: object, cursor: Cursor) -> LibrarySettings:
    """Read the `library` section, filling in defaults; errors are added as problems."""
    given = cursor.mapping(data, _COUNTS)
    values: dict[str, int] = {}
    for name, value in given.items():
        try:
            values[name] = parse_count(value)
            if values[name] < (0 if name in _MAY_BE_ZERO else 1):
                raise ValueError("must be at least 1")
        except ValueError as error:
            values.pop(name, None)
            cursor.at(name).problem(value, str(error), _COUNTS[name])
    settings = LibrarySettings(**values)
    for name in ("fit_tokens", "score_tokens", "eval_tokens"):
        if name in values and values[name] < settings.seq_len:
            rule = f"is less than one sequence ({settings.seq_len} tokens)"
            cursor.at(name).problem(given[name], rule)
    if settings.score_prompts and not settings.prompts:
        rule = "are scored, but designs don't answer any"
        cursor.at("prompts").problem(0, rule, "write prompts: 25, or leave out score_prompts")
    return settings
