"""`nas bench`: speed, side by side. A benchmark is a module of `nas_cli.benches` and a word here."""

from __future__ import annotations

from importlib import import_module

import typer

BENCHES = ("mixers", "model", "ops", "overhead", "search", "trial")

bench = typer.Typer(help="Measure speed on this machine, or of searches, side by side.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    for name in BENCHES:
        import_module(f"nas_cli.benches.{name}").add_to(bench)
    app.add_typer(bench, name="bench")


@bench.callback()
def group() -> None:
    pass
