"""`nas bench`: speed, side by side. A benchmark is a module of `nas_cli.benchmarks` and a word here."""

from __future__ import annotations

from importlib import import_module

import typer

BENCHES = ("mixers", "model", "ops", "overhead", "search", "trial")


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    for name in BENCHES:
        import_module(f"nas_cli.benchmarks.{name}").add_to(group)
    app.add_typer(group, name="bench", help="Measure speed on this machine, or of searches, side by side.")
