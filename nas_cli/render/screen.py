"""Output shared by all commands: the consoles, JSON, errors, warnings and durations."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from surgery.config.problems import UserError


PIPED_WIDTH = 120  # columns if the output is not a terminal


def _width(stream: TextIO) -> int | None:
    """Return the console's width; None for that of the terminal or of COLUMNS."""
    return None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH


console = Console(highlight=False, width=_width(sys.stdout))
errors = Console(stderr=True, highlight=False, width=_width(sys.stderr))
notes = Console(stderr=True, highlight=False, width=_width(sys.stderr))  # progress; silent with --quiet

MOST_PROBLEMS = 20  # problems printed at once

log = logging.getLogger("nas")  # what --log writes to its file
log.propagate = False  # the terminal shows it already
log.addHandler(logging.NullHandler())


def set_up(*, quiet: bool, verbose: bool, log: Path | None) -> None:
    """Apply the output options of a command.

    Args:
        quiet: print nothing but results and errors.
        verbose: print what the libraries log, on stderr.
        log: file to append to, with times: the command, its notes and errors, and what the libraries log.

    Raises:
        UserError: the file can't be written.
    """
    if quiet and verbose:
        from surgery.config.problems import Problem, UserError

        problem = Problem("--quiet", None, "can't be given with --verbose", "omit one of them")
        raise UserError("incompatible options", [problem])
    notes.quiet = quiet
    if verbose:
        _listen(logging.StreamHandler())
    if log is not None:
        _log_to(log)


def is_live() -> bool:
    """Return whether progress is redrawn in place: in a terminal that can, and not with --quiet."""
    return console.is_terminal and not console.is_dumb_terminal and not notes.quiet


def _log_to(path: Path) -> None:
    from surgery.config.paths import expand
    from surgery.config.problems import Problem, UserError

    try:
        handler = logging.FileHandler(expand(path), encoding="utf-8")
    except OSError as error:
        problem = Problem("--log", str(path), error.strerror or str(error), "name a file you may write")
        raise UserError("can't write the log", [problem]) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _listen(handler)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.info("%s", shlex.join(["nas", *sys.argv[1:]]))


def _listen(handler: logging.Handler) -> None:
    """Send what libraries log to a handler; those that are loaded already may have quietened themselves."""
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    os.environ["TRANSFORMERS_VERBOSITY"] = "info"


def print_json(data: Any) -> None:
    """Print JSON to stdout."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_error(error: UserError) -> None:
    """Print the title, then each problem with its line, field, rule and hint, to stderr."""
    log.error("%s", error)
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
        log.warning("%s", warning)
        notes.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=not notes.is_terminal)


def speed(tokens_per_s: float) -> str:
    """Format tokens per second in the unit that fits: `37 tok/s`, `4.2k tok/s`, `1.3M tok/s`."""
    for divisor, unit in ((1e6, "M"), (1e3, "k")):
        if tokens_per_s >= divisor:
            return f"{tokens_per_s / divisor:.1f}{unit} tok/s"
    return f"{tokens_per_s:.0f} tok/s"


def own_command() -> str:
    """Return the command line that is running, without the passwords in it."""
    from studies.storage.addresses import redacted

    return redacted(shlex.join(["nas", *sys.argv[1:]]))


def say_resumable() -> None:
    """Print that the command was interrupted, and itself, which resumes it."""
    errors.print("Interrupted. Run the same command to resume:")
    errors.print(f"  [bold]{escape(own_command())}[/]", soft_wrap=True)


@contextmanager
def starting(what: str) -> Iterator[Callable[[str], None]]:
    """Show in a terminal that something takes seconds, and yield a function that replaces the text.

    Nothing is shown with --quiet.
    """
    if not notes.is_terminal or notes.is_dumb_terminal or notes.quiet:
        yield lambda text: None
        return
    with notes.status(escape(what)) as status:
        yield lambda text: status.update(escape(text))


def duration(seconds: float | None) -> str:
    """Format as `1 h 05 min`, `3 min 20 s` or `12 s`; a dash if unknown."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
