"""Token counts on the command line: `20M`, `500k`, `1.5B`."""

from __future__ import annotations

from typing import Annotated

import typer


def tokens(text: str) -> int:
    """`20M` -> 20_000_000.

    Raises:
        typer.BadParameter: not a count, or nothing.
    """
    from surgery.quantities import parse_count

    try:
        count = parse_count(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if count < 1:
        raise typer.BadParameter("must be at least 1")
    return count


SeqLenOption = Annotated[
    int, typer.Option("--seq-len", parser=tokens, metavar="TOKENS", help="Tokens of a sequence.")
]
