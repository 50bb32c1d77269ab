"""Progress of data preparation: a bar in a terminal, occasional lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nas_cli.render.screen import notes

PLAIN_SECONDS = 5.0  # between lines if there is no terminal


@contextmanager
def data_progress() -> Iterator[Callable[[int, int, int | None], None]]:
    """Yield a callback (documents, tokens, target tokens or None) that shows the progress of tokenizing."""
    if not notes.is_terminal:
        last = time.monotonic()

        def line(documents: int, tokens: int, wanted: int | None) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_SECONDS:
                last = time.monotonic()
                notes.print(f"preparing text: {documents:,} documents, {tokens:,} tokens")

        yield line
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("preparing text"), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn(),
        console=notes, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("text", total=None, text="")

        def update(documents: int, tokens: int, wanted: int | None) -> None:
            text = f"{documents:,} documents, {tokens:,} tokens"
            bar.update(task, completed=tokens, total=wanted, text=text)

        yield update
