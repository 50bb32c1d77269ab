"""The command line is frozen: a new, renamed or dropped option is a conscious change of `surface.txt`.

python -m tests.nas_cli.test_surface writes the file anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer.main

from nas_cli.main import app, register

FILE = Path(__file__).with_name("surface.txt")


def surface() -> list[str]:
    """Return `command  parameter` for every argument and option of every command."""
    register()

    def walk(command: object, words: tuple[str, ...]) -> Iterator[str]:
        for name, child in sorted(getattr(command, "commands", {}).items()):
            yield from walk(child, (*words, name))
        for parameter in command.params:  # type: ignore[attr-defined]
            names = sorted(parameter.opts + parameter.secondary_opts)
            kind = "option" if parameter.param_type_name == "option" else "argument"
            yield f"{' '.join(words)}  {kind} {' '.join(names)}"

    lines = set(walk(typer.main.get_command(app), ("nas",)))
    return sorted(line for line in lines if "completion" not in line)  # Typer's own


def test_the_surface_is_the_one_that_is_written_down() -> None:
    assert surface() == FILE.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    FILE.write_text("\n".join(surface()) + "\n", encoding="utf-8")
