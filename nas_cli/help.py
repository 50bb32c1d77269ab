"""Examples in every command's help, and the options that all commands have: --quiet, --verbose and --log."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from nas_cli.metavars import set_metavars
from nas_cli.render import screen

PANEL = "Output"

QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", rich_help_panel=PANEL, help="Print results and errors only: no progress, no notes."
    ),
]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", rich_help_panel=PANEL, help="Also print what the libraries log."),
]
LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log", metavar="FILE", rich_help_panel=PANEL,
        help="Append the command, its notes, errors and the libraries' messages to this file, with times.",
    ),
]  # fmt: skip
_ADDED = {"quiet": (QuietOption, False), "verbose": (VerboseOption, False), "log": (LogOption, None)}


def add_command(app: typer.Typer, name: str, function: Callable[..., None], *examples: str) -> None:
    """Add a command with its examples.

    Args:
        app: the application, or a group in it.
        name: of the command.
        function: that runs it; its parameters are the command's.
        examples: whole command lines.
    """
    lines = ["Examples:", *(f"[dim]$[/] {escape(line)}" for line in examples)]
    text = _unwrapped(inspect.getdoc(function) or "")
    app.command(name, help=text, epilog="\n".join(lines))(_with_output_options(function))


def _unwrapped(text: str) -> str:
    """Return a docstring with a line for each paragraph, so that the terminal's width alone wraps it."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _with_output_options(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function with the parameters `quiet`, `verbose` and `log`, which it does not see itself."""

    @functools.wraps(function)
    def run(**values: Any) -> None:
        screen.set_up(**{name: values.pop(name) for name in _ADDED})
        function(**values)

    signature = inspect.signature(function, eval_str=True)
    set_metavars(signature)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _ADDED.items()
    ]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = {
        **{item.name: item.annotation for item in signature.parameters.values()},
        **{name: annotation for name, (annotation, _) in _ADDED.items()},
    }
    return run
