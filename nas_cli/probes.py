"""Probes on the command line: settings from options, and the table of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table
from rich.text import Text

from nas_cli.opening import check_model
from nas_cli.render.screen import console, duration, errors, print_json

if TYPE_CHECKING:
    from search_spaces.probes.base import Probe
    from surgery.architecture import Architecture

# option -> field, where a probe names the field differently
_FIELDS = {"recall": {"batch_sequences": "batch"}, "state": {"seq_len": "length", "batch_sequences": "batch"}}


def run_probe(
    name: str, model: str, given: dict[str, Any], seeds: int, seed: int, device: str, as_json: bool
) -> None:
    """Train new models with the same layers on a probe and print their accuracy.

    Args:
        name: of the probe.
        model: a model folder, a Hub id or an architecture file.
        given: settings by option (`seq_len` for `--seq-len`); None for an omitted option.
        seeds: number of runs.
        seed: the first seed.
        device: as given on the command line.
        as_json: print JSON instead of a table.

    Raises:
        typer.Exit: training failed (exit code 1).
    """
    from surgery.architecture import Architecture
    from surgery.config.paths import expand

    settings = read_settings(name, given)
    if Path(model).suffix.lower() in (".yaml", ".yml"):
        Architecture.from_yaml(expand(model))
    else:
        check_model(model)
    from nas_cli.render.bars import training_progress
    from studies.evaluation.model_folder import read_layers
    from studies.probes import measure
    from studies.training.devices import check_memory, pick_device
    from studies.training.errors import TrainingFailed

    torch_device = pick_device(device)
    architecture = read_layers(model)
    check_memory({"model": architecture}, torch_device)
    wanted = tuple(range(seed, seed + seeds))
    try:
        with training_progress(name) as progress:
            result = measure(architecture, settings, wanted, torch_device, progress).to_dict()
    except TrainingFailed as error:
        errors.print(Text.assemble(("training failed: ", "bold red"), str(error)))
        raise typer.Exit(1) from None
    if as_json:
        layers = {"architecture": architecture.line, "hash": architecture.hash}
        print_json({"model": model, **layers, **result})
        return
    console.print(_table(model, architecture, result))


def read_settings(name: str, given: dict[str, Any]) -> Probe:
    """Read probe settings from options, with the defaults of space files.

    Raises:
        UserError: the probe lacks an option, or values are incompatible.
    """
    from search_spaces.probes.recall import with_room
    from search_spaces.probes.registry import PROBES
    from surgery.config.options import Cursor
    from surgery.config.problems import Problems, nearest

    problems = Problems()
    if name not in PROBES:
        problems.add("--probe", name, f"must be one of {', '.join(PROBES)}", nearest(name, PROBES))
        problems.raise_if_any("no such probe")
    kind, words = PROBES[name], _FIELDS.get(name, {})
    values: dict[str, Any] = {}
    for option, value in given.items():
        field = words.get(option, option)
        if value is None:
            continue
        if field in kind.options:
            values[field] = value
        else:
            has = ", ".join(_spell(field, name) for field in kind.options)
            problems.add(_spell(option), value, f"has no effect on the {name} probe", f"its options: {has}")
    problems.raise_if_any("invalid probe settings")
    if name == "recall":
        values = with_room(values)
    probe = kind.read(values, None, Cursor(problems))
    problems.raise_if_any("invalid probe settings")
    assert probe is not None
    return probe


def _spell(field: str, probe: str = "") -> str:
    """Return the command-line option of a field."""
    options = {value: option for option, value in _FIELDS.get(probe, {}).items()}
    return f"--{options.get(field, field).replace('_', '-')}"


def recall_words(data: dict[str, Any]) -> str:
    """Return a one-line summary of the recall probe's settings."""
    apart = f", queried at least {data['distance']:,} tokens later," if data["distance"] else ""
    return (
        f"{data['pairs']} pairs{apart} in sequences of {data['seq_len']:,}, alphabet {data['alphabet']}, "
        f"{data['steps']:,} steps of {data['batch']:,} sequences, lr {data['lr']:g}"
    )


def state_words(data: dict[str, Any]) -> str:
    """Return a one-line summary of the state probe's settings."""
    return (
        f"words of {data['length']:,} over {data['group']}, "
        f"{data['steps']:,} steps of {data['batch']:,} words, lr {data['lr']:g}"
    )


def _table(model: str, architecture: Architecture, result: dict[str, Any]) -> Table:
    describe = recall_words if result["probe"] == "recall" else state_words
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("model", Text(model))
    rows.add_row("layers", Text(f"{architecture.line}, trained from scratch"))
    rows.add_row(result["probe"], describe(result["settings"]))
    spread = "" if result["spread"] is None else f" ± {result['spread']:.3f}"
    each = ", ".join(f"{value:.3f}" for value in result["accuracies"])
    seeds = f" over {len(result['seeds'])} seeds: {each}" if spread else ""
    rows.add_row("accuracy", f"[bold green]{result['accuracy']:.3f}[/]{spread}{seeds}")
    rows.add_row("chance", f"{result['chance']:.3f}")
    rows.add_row("took", duration(result["seconds"]))
    return rows
