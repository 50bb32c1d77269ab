"""Parsers of numbers on the command line, such as token counts `20M`, `500k`, `1.5B`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import typer

MOST_SEED = 2**63 - 1  # the largest seed that every generator accepts
MOST_LANES = 64
MOST_TOKENS = 10**15  # more than any model has been trained with


def tokens(text: str) -> int:
    """Convert a count such as `20M` to 20_000_000.

    Raises:
        typer.BadParameter: `text` is not a count from 1 to MOST_TOKENS.
    """
    from surgery.config.quantities import parse_count

    try:
        count = parse_count(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not 1 <= count <= MOST_TOKENS:
        raise typer.BadParameter(f"must be from 1 to {MOST_TOKENS:,}")
    return count


def token_list(text: str) -> list[int]:
    """Convert counts such as `512,2k` to [512, 2000].

    Raises:
        typer.BadParameter: one of them is not a count, or is given twice.
    """
    counts = [tokens(part.strip()) for part in text.split(",")]
    if len(set(counts)) < len(counts):
        raise typer.BadParameter("the same count is there twice")
    return counts


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of numbers from `low` to `high`. Unlike Click's ranges, it rejects NaN.

    The parser raises typer.BadParameter if the text is not a number or out of range.
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise typer.BadParameter(f"must be a number from {low:g} to {high:g}")
        return value

    return parse


learning_rate = number(1e-8, 1.0)


def seed(text: str) -> int:
    """Convert the number of a seed. A parser, since the range of seeds is no help to read.

    Raises:
        typer.BadParameter: `text` is not a whole number from 0 to MOST_SEED.
    """
    word = str(text).strip()
    if not word.isdecimal() or not word.isascii() or int(word) > MOST_SEED:
        raise typer.BadParameter(f"must be a whole number from 0 to {MOST_SEED:,}")
    return int(word)


SeqLenOption = Annotated[
    int, typer.Option("--seq-len", parser=tokens, metavar="TOKENS", help="Tokens per sequence.")
]


def lanes(text: str) -> int:
    """Convert a number of lanes; `auto` is 0, so that `lanes or None` is what a worker takes.

    Raises:
        typer.BadParameter: `text` is neither `auto` nor a whole number from 1 to MOST_LANES.
    """
    word = str(text).strip()
    if word in ("auto", "0"):
        return 0
    if not word.isdecimal() or not word.isascii() or int(word) > MOST_LANES:
        raise typer.BadParameter(f"must be auto, or a whole number from 1 to {MOST_LANES}")
    return int(word)


LanesOption = Annotated[
    int,
    typer.Option(
        "--lanes",
        parser=lanes,
        metavar="N",
        help="Trainings at a time in each process; auto: on a GPU as many as make it faster, on a CPU 1.",
    ),
]
