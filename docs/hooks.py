"""A hook of mkdocs: the tables of options in `reference/cli.md` are those of the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MARK = "<!-- options -->"


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Called by mkdocs for every page, with its Markdown source."""
    if page.file.src_uri != "reference/cli.md":
        return markdown
    assert MARK in markdown, f"{page.file.src_uri} has no {MARK}"
    return markdown.replace(MARK, options())


def options() -> str:
    """Every command with its usage, help and parameters, in Markdown."""
    from typer.main import get_command

    from nas_cli import main

    main.register()
    return "\n\n".join(_section(name, command) for name, command in _walk("nas", get_command(main.app)))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """(full name, command) of everything that can be run."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from _walk(f"{name} {word}", inner)


def _section(name: str, command: Any) -> str:
    parts = [f"### {name}", _plain(command.help or ""), "| option | default | |\n|---|---|---|"]
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    return "\n\n".join(parts) + "\n" + "\n".join(rows)


def _row(parameter: Any) -> str:
    named = parameter.param_type_name == "option"
    words = [*parameter.opts, *parameter.secondary_opts] if named else [parameter.metavar or parameter.name]
    shown = getattr(parameter, "show_default", None)
    default = shown if isinstance(shown, str) else parameter.default
    if parameter.required:
        text = "(required)"
    elif default is None or default is False or callable(default):
        text = ""
    else:
        text = f"`{default}`"
    return f"| {', '.join(f'`{word}`' for word in words)} | {text} | {_plain(parameter.help or '')} |"


def _plain(text: str) -> str:
    """One paragraph, with nothing that Markdown or a table would read as its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
