"""`nas bench startup`: how long the command line takes to answer, in new processes."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import typer

from nas_cli.help import add_command
from nas_cli.options import JsonOption, RoundsOption
from nas_cli.render.fitted import Column, fitted_table
from nas_cli.render.screen import console, print_json, starting

HELP_GOAL, REFUSAL_GOAL, HUB_GOAL = 0.3, 1.0, 3.0  # seconds, on an idle machine
ARCHITECTURE = "layout: F\nbackbone: {vocab_size: 64, dim: 32, num_layers: 1, num_heads: 1, ffn_dim: 64}\n"
COMMANDS = (
    ("--help", HELP_GOAL),
    ("search --help", HELP_GOAL),
    ("search tinny", REFUSAL_GOAL),
    ("search tiny --sampler tpes", REFUSAL_GOAL),
    ("search tiny --device gpu", REFUSAL_GOAL),
    ("search tiny --data nothing.txt", REFUSAL_GOAL),
    ("search arch.yaml", REFUSAL_GOAL),
    ("front nothing", REFUSAL_GOAL),
    ("audit nothing", REFUSAL_GOAL),
    ("train nothing.yaml -o out", REFUSAL_GOAL),
    ("apply arch.yaml arch.yaml -o out", REFUSAL_GOAL),
    ("eval arch.yaml", REFUSAL_GOAL),
    ("generate nothing/at-all Once", HUB_GOAL),
)


@dataclass(frozen=True)
class Answer:
    """Medians of a command's answers.

    Attributes:
        seconds: by the clock.
        cpu: seconds of the processor, which other work on the machine hardly changes.
    """

    command: str
    seconds: float
    cpu: float
    goal: float


def add_to(bench: typer.Typer) -> None:
    """Add `startup` to `bench`."""
    add_command(bench, "startup", startup, "nas bench startup", "nas bench startup --rounds 11 --json")


def startup(rounds: RoundsOption = 5, as_json: JsonOption = False) -> None:
    """Time the help and the refusal of typical mistakes, each in a new process, against their goals."""
    with tempfile.TemporaryDirectory() as folder, starting("measuring") as say:
        Path(folder, "arch.yaml").write_text(ARCHITECTURE, encoding="utf-8")
        answers = []
        for command, goal in COMMANDS:
            say(f"nas {command}")
            answers.append(_measure(command, goal, Path(folder), rounds))
    if as_json:
        print_json({"rounds": rounds, "answers": [asdict(answer) for answer in answers]})
        return
    columns = [Column("command", justify="left"), Column("seconds"), Column("of the CPU"), Column("goal")]
    rows = []
    for item in answers:
        colour = "green" if item.seconds <= item.goal else "red"
        cells = [f"{item.seconds:.2f}", f"{item.cpu:.2f}", f"{item.goal:.1f}"]
        rows.append([f"nas {item.command}", f"[{colour}]{cells[0]}[/]", *cells[1:]])
    console.print(fitted_table(columns, rows))
    console.print(f"[dim]medians of {rounds}; the goals are for an idle machine[/]")


def _measure(command: str, goal: float, folder: Path, rounds: int) -> Answer:
    words = [sys.executable, "-m", "nas_cli.main", *shlex.split(command)]
    environment = {key: value for key, value in os.environ.items() if key != "NAS_STORAGE"}
    seconds, cpu = [], []
    for _ in range(rounds):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(words, cwd=folder, env=environment, capture_output=True, check=False)
        seconds.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return Answer(command, median(seconds), median(cpu), goal)
