"""Probes on the command line: their settings out of options, and what they found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table
from rich.text import Text

from nas_cli.render.screen import console, duration, errors, print_json

if TYPE_CHECKING:
    from search_spaces.probes.base import Probe
    from surgery.architecture import Architecture

# option -> field, where a probe has another word for it
_FIELDS = {"state": {"seq_len": "length"}}


def run_probe(
    name: str, model: str, given: dict[str, Any], seeds: int, seed: int, device: str, as_json: bool
) -> None:
    """Trains fresh models of the same layers and prints how many answers they have right.

    `given`: settings by option (`seq_len` for `--seq-len`), None where it was left out. Exit code 1 where the
    training of one of them fails.
    """
    settings = read_settings(name, given)
    from nas_cli.render.bars import training_progress
    from studies.evaluation.model_folder import read_layers
    from studies.probes import measure
    from studies.training.devices import check_memory, pick_device
    from studies.training.errors import TrainingFailed

    place = pick_device(device)
    architecture = read_layers(model)
    check_memory({"model": architecture}, place)
    wanted = tuple(range(seed, seed + seeds))
    try:
        with training_progress(name) as progress:
            found = measure(architecture, settings, wanted, place, progress).to_dict()
    except TrainingFailed as error:
        errors.print(Text.assemble(("training failed: ", "bold red"), str(error)))
        raise typer.Exit(1) from None
    if as_json:
        layers = {"architecture": architecture.line, "hash": architecture.hash}
        print_json({"model": model, **layers, **found})
        return
    console.print(_table(model, architecture, found))


def read_settings(name: str, given: dict[str, Any]) -> Probe:
    """Settings out of options; what is left out takes the default of space files.

    Raises:
        UserError: options that the probe does not have, or values that don't fit each other.
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
            problems.add(_spell(option), value, f"has no effect on the {name} probe", f"it has {has}")
    problems.raise_if_any("this can't be probed")
    if name == "recall":
        values = with_room(values)
    probe = kind.read(values, None, Cursor(problems))
    problems.raise_if_any("this can't be probed")
    assert probe is not None
    return probe


def _spell(field: str, probe: str = "") -> str:
    """The option of a field."""
    options = {value: option for option, value in _FIELDS.get(probe, {}).items()}
    return f"--{options.get(field, field).replace('_', '-')}"


def recall_words(data: dict[str, Any]) -> str:
    """The settings of the recall probe in a line."""
    apart = f", asked {data['distance']:,} or more tokens behind them," if data["distance"] else ""
    return (
        f"{data['pairs']} pairs{apart} in sequences of {data['seq_len']:,}, alphabet {data['alphabet']}, "
        f"{data['steps']:,} steps of {data['batch']:,} sequences, lr {data['lr']:g}"
    )


def state_words(data: dict[str, Any]) -> str:
    """The settings of the state probe in a line."""
    return (
        f"words of {data['length']:,} over {data['group']}, "
        f"{data['steps']:,} steps of {data['batch']:,} words, lr {data['lr']:g}"
    )


def _table(model: str, architecture: Architecture, found: dict[str, Any]) -> Table:
    told = recall_words if found["probe"] == "recall" else state_words
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("model", Text(model))
    rows.add_row("layers", Text(f"{architecture.line}, new weights"))
    rows.add_row(found["probe"], told(found["settings"]))
    spread = "" if found["spread"] is None else f" ± {found['spread']:.3f}"
    each = ", ".join(f"{value:.3f}" for value in found["accuracies"])
    seeds = f" over {len(found['seeds'])} seeds: {each}" if spread else ""
    rows.add_row("accuracy", f"[bold green]{found['accuracy']:.3f}[/]{spread}{seeds}")
    rows.add_row("chance", f"{found['chance']:.3f}")
    rows.add_row("took", duration(found["seconds"]))
    return rows
