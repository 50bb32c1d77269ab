"""`nas bench`: the benchmarks. Each is a module of `nas_cli.benchmarks`, listed here by name."""

from __future__ import annotations

from importlib import import_module

import typer

BENCHES = ("lanes", "latency", "mixers", "model", "ops", "overhead", "search", "startup", "table", "trial")


def add_to(app: typer.Typer) -> None:
    """Add the `bench` commands to `app`."""
    group = typer.Typer(no_args_is_help=True)
    for name in BENCHES:
        import_module(f"nas_cli.benchmarks.{name}").add_to(group)
    app.add_typer(
        group, name="bench", help="Benchmark mixers, models, operators, latencies, trials and searches."
    )
