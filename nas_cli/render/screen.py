"""Output shared by all commands: the consoles, JSON, errors, warnings and durations."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from surgery.config.problems import UserError


PIPED_WIDTH = 120  # columns if the output is not a terminal


def _width(stream: TextIO) -> int | None:
    """Return the console's width; None for that of the terminal or of COLUMNS."""
    return None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH


console = Console(highlight=False, width=_width(sys.stdout))
errors = Console(stderr=True, highlight=False, width=_width(sys.stderr))

MOST_PROBLEMS = 20  # problems printed at once


def print_json(data: Any) -> None:
    """Print JSON to stdout."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_error(error: UserError) -> None:
    """Print the title, then each problem with its line, field, rule and hint, to stderr."""
    if not errors.is_terminal:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        return
    lines = Text()
    for index, problem in enumerate(error.problems[:MOST_PROBLEMS]):
        lines.append("\n" if index else "")
        if problem.line is not None:
            lines.append(f"line {problem.line}  ", style="dim")
        lines.append(problem.name, style="bold")
        if problem.value is not None:
            lines.append(f" = {problem.shown}", style="yellow")
        lines.append(f"  {problem.rule}")
        if problem.hint:
            lines.append(f"\n      {problem.hint}", style="cyan")
    if len(error.problems) > MOST_PROBLEMS:
        lines.append(f"\n… and {len(error.problems) - MOST_PROBLEMS} more")
    if not error.problems:
        errors.print(f"[bold red]error:[/] {escape(error.title)}")
        return
    errors.print(
        Panel(lines, title=escape(error.title), title_align="left", border_style="red", expand=False)
    )


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings about valid but probably unintended settings to stderr."""
    for warning in warnings:
        errors.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=not errors.is_terminal)


def duration(seconds: float | None) -> str:
    """Format as `1 h 05 min`, `3 min 20 s` or `12 s`; a dash if unknown."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
