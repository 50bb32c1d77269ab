"""Building the table by training every architecture of its space. `python -m studies.replay.build --help`.

Finished runs are appended to a file of JSON lines, so that a killed build can be resumed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from search_spaces import SearchSpace, load_space
from search_spaces.enumeration import every_architecture
from studies.data import TokenData, open_or_prepare
from studies.replay.table import FILE, SPACE, Entry, Table
from studies.stats.seeds import derive_seed
from studies.study.rules import changed_rules, rules_of
from studies.training.devices import describe
from studies.training.loop import train
from studies.workers.proxy import metrics_of, train_settings
from surgery.architecture import Architecture
from surgery.config.json_source import parse_json
from surgery.config.problems import UserError
from surgery.model import HybridLM

Job = tuple[str, int]  # architecture hash, repeat
CPU = torch.device("cpu")


@dataclass
class Build:
    """A table that is being built.

    Attributes:
        runs: file of finished runs.
        seed: determines initial weights and data order, as a study's seed does.
        sample: number of random architectures with replicates.
        repeats: runs of each of these and of architectures on or near the front; 1 of the others.
    """

    space: SearchSpace
    data: TokenData
    runs: Path
    seed: int = 0
    sample: int = 40
    repeats: int = 3

    def run(self, workers: int) -> None:
        """Train what is missing, in an order that leaves a random part of the table when interrupted."""
        order = list(self.architectures)
        again = [(name, repeat) for repeat in range(1, self.repeats) for name in order[: self.sample]]
        self._train([*((name, 0) for name in order), *again], workers)
        while missing := [job for job in self._near_front() if job not in self.lines]:
            self._train(missing, workers)

    @cached_property
    def architectures(self) -> dict[str, tuple[dict[str, Any], Architecture]]:
        """Trial parameters and architecture by hash, shuffled, without those that the constraints exclude."""
        every = {arch.hash: (params, arch) for params, arch in every_architecture(self.space)}
        allowed = sorted(name for name, (_, arch) in every.items() if not self.space.violations(arch))
        random.Random(self.seed).shuffle(allowed)
        return {name: every[name] for name in allowed}

    @cached_property
    def lines(self) -> dict[Job, dict[str, Any]]:
        """Finished runs by job; a truncated line is ignored.

        Raises:
            UserError: the runs are of a version with other rules, which a table can't mix.
        """
        lines = {}
        for text in self.runs.read_text(encoding="utf-8").splitlines() if self.runs.exists() else ():
            try:
                line = parse_json(text)
            except ValueError:
                continue
            if problems := changed_rules(self.space, line.get("rules", {})):
                raise UserError(f"{self.runs} has runs of a version with other rules", problems)
            lines[line["hash"], line["repeat"]] = line
        return lines

    def table(self) -> Table:
        """Return the table of the runs so far."""
        names = [name for name in self.architectures if (name, 0) in self.lines]
        about = {
            "corpus": self.data.meta["corpus"]["spec"].rpartition("/")[2],
            "data_hash": self.data.content_hash,
            "seed": self.seed,
            "rules": rules_of(self.space),
            **describe(CPU),
        }
        return Table(self.space, self.space.proxy.rungs, {name: self._entry(name) for name in names}, about)

    def _entry(self, name: str) -> Entry:
        params, architecture = self.architectures[name]
        lines: list[dict[str, Any]] = []
        while (name, len(lines)) in self.lines:
            lines.append(self.lines[name, len(lines)])
        costs = metrics_of(self.space, architecture, [{}])
        curves = tuple(tuple(line["curve"]) for line in lines)
        return Entry(name, architecture.line, params, costs, curves, tuple(line["seconds"] for line in lines))

    def _near_front(self) -> list[Job]:
        """Return the replicates of architectures that are on the front if better by the seed spread."""
        table = self.table()
        entries = list(table.entries.values())
        points = [table.values(entry) for entry in entries]
        column = [item.name for item in self.space.objectives].index("val_loss")
        margin = seed_spread(entries)

        def beaten(point: tuple[float, ...]) -> bool:
            better = (*point[:column], point[column] - margin, *point[column + 1 :])
            return any(
                other != point and all(one <= two for one, two in zip(other, better, strict=True))
                for other in points
            )

        near = [entry.hash for entry, point in zip(entries, points, strict=True) if not beaten(point)]
        return [(name, repeat) for repeat in range(1, self.repeats) for name in near]

    def _train(self, jobs: Iterable[Job], workers: int) -> None:
        missing = [
            (self.architectures[name][1], repeat) for name, repeat in jobs if (name, repeat) not in self.lines
        ]
        with self.runs.open("a", encoding="utf-8") as file:
            for number, line in enumerate(self._results(missing, workers), start=1):
                file.write(json.dumps(line) + "\n")
                file.flush()
                self.lines[line["hash"], line["repeat"]] = line
                print(f"{number}/{len(missing)} {line['line']}: {line['curve'][-1]:.4f}", flush=True)

    def _results(self, jobs: list[tuple[Architecture, int]], workers: int) -> Iterator[dict[str, Any]]:
        """Yield results as they finish, from this process or a pool."""
        start = (self.space, str(self.data.folder), self.seed)
        if workers == 1:
            trainer = _Trainer(*start)
            yield from (trainer.train(*job) for job in jobs)
            return
        with get_context("spawn").Pool(workers, _start, start) as pool:
            yield from pool.imap_unordered(_train_one, jobs)


def seed_spread(entries: Iterable[Entry]) -> float:
    """Return the standard deviation of the final loss over replicates, pooled; 0 without replicates."""
    variances = [
        statistics.variance(curve[-1] for curve in entry.curves) for entry in entries if len(entry.curves) > 1
    ]
    return float(statistics.fmean(variances) ** 0.5) if variances else 0.0


class _Trainer:
    """State of a worker process: one thread, like a study's CPU workers, and the opened data."""

    def __init__(self, space: SearchSpace, folder: str, seed: int) -> None:
        torch.set_num_threads(1)
        self.data, self.seed = TokenData.open(folder), seed
        self.settings, self.rules = train_settings(space, seed), rules_of(space)

    def train(self, architecture: Architecture, repeat: int) -> dict[str, Any]:
        """Train one run and return its line of the file of runs."""
        seed = derive_seed(self.seed, architecture.hash, repeat)
        torch.manual_seed(seed)
        with tempfile.TemporaryDirectory() as folder:
            curve = Path(folder) / "curve.jsonl"
            model = HybridLM(architecture)
            result = train(model, self.data, self.settings, seed=seed, device=CPU, curve=curve)
            points = [json.loads(line) for line in curve.read_text(encoding="utf-8").splitlines()]
        return {
            "hash": architecture.hash,
            "repeat": repeat,
            "line": architecture.line,
            "rules": self.rules,
            "curve": [round(point["val_loss"], 5) for point in points if "val_loss" in point],
            "seconds": round(result.seconds, 2),
        }


_trainer: _Trainer


def _start(space: SearchSpace, folder: str, seed: int) -> None:
    global _trainer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    _trainer = _Trainer(space, folder, seed)


def _train_one(job: tuple[Architecture, int]) -> dict[str, Any]:
    return _trainer.train(*job)


def main() -> None:
    """Build the table from the command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.replay.build", description=__doc__)
    parser.add_argument("--space", default=str(SPACE), help="finite; its rungs are the points of the curves")
    parser.add_argument("--data", help="a corpus, instead of the space's own")
    parser.add_argument(
        "--runs", type=Path, required=True, help="file of finished runs, resumed if it exists"
    )
    parser.add_argument("--out", type=Path, default=FILE, help="the table")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each; 0: only write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each architecture near the front")
    given = parser.parse_args()
    space = load_space(given.space)
    data = open_or_prepare(given.data or space.data.corpus, space.data.tokenizer)
    build = Build(space, data, given.runs, given.seed, repeats=given.repeats)
    try:
        if given.workers:
            build.run(given.workers)
    except KeyboardInterrupt:
        print("Interrupted. The table has the finished runs; run the same command to resume.")
    table = build.table()
    table.save(given.out)
    print(f"{given.out}: {len(table.entries)} of {len(build.architectures)} architectures, "
          f"{len(build.lines)} runs, {len(table.front)} on the front")  # fmt: skip


if __name__ == "__main__":
    main()
