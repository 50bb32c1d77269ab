"""Syne Tune's MOASHA searching the table, as a rival for `nas bench search --rival moasha=FILE`.

It needs an environment of its own, because Syne Tune and this package need different libraries:

    python -m venv rival && rival/bin/pip install syne-tune==0.16.0 pyyaml
    PYTHONPATH=. rival/bin/python -m studies.replay.moasha -o moasha.jsonl

The scheduler is Syne Tune's own class (Schmucker et al. 2021, arXiv:2106.12639). Its workers are simulated
like ours, asynchronously on a clock of tokens. A repeated suggestion is drawn again, since our searches do
not train an architecture twice either. It receives the same losses and exact costs, at every point of the
table. It stops runs at the grace period and its multiples by powers of the reduction factor, or at the next
point after.

Its default priority in 0.16.0 returns the sorted indices where the scheduler expects each run's rank, so
that it stops the wrong runs. `--repaired` passes ranks: by fronts, and within a front by the same
epsilon-net.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from studies.replay.public import open_table
from studies.replay.table import FILE, Entry, Table

TOKENS = "tokens"


def search(
    table: Table, seed: int, workers: int, grace: float, factor: float, repaired: bool, trainings: float
) -> dict[str, Any]:
    """Search the table once, for the tokens of `trainings` whole trainings.

    Returns the finished architectures and the total tokens when each finished.
    """
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice
    from syne_tune.optimizer.scheduler import SchedulerDecision
    from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

    np.random.seed(seed)  # noqa: NPY002 - the generator that the scheduler draws from
    budget = table.space.proxy.tokens
    points = [round(share * budget) for share in table.fractions]
    names = [item.name for item in table.space.objectives]
    scheduler = MOASHA(
        {"architecture": choice(list(table.entries))}, metrics=names, time_attr=TOKENS, max_t=budget,
        grace_period=round(grace * budget), reduction_factor=factor, random_seed=seed,
        multiobjective_priority=_ranks() if repaired else None,
    )  # fmt: skip
    left = set(table.entries)
    running: dict[int, tuple[Any, Entry, int]] = {}  # by worker: trial, architecture, next point
    events = [(0, worker) for worker in range(workers)]
    spent, count = 0, 0
    ended: list[str] = []
    at: list[int] = []
    while events and spent < trainings * budget:
        now, worker = heapq.heappop(events)
        if worker in running:
            trial, entry, point = running.pop(worker)
            spent += points[point] - (points[point - 1] if point else 0)
            metrics = {**entry.costs, "val_loss": entry.curves[0][point]}
            result = {TOKENS: points[point], **{name: metrics[name] for name in names}}
            last = point + 1 == len(points)
            decision = scheduler.on_trial_result(trial, result)
            if last:
                scheduler.on_trial_complete(trial, result)
                ended.append(entry.hash)
                at.append(spent)
            elif decision == SchedulerDecision.CONTINUE:
                running[worker] = trial, entry, point + 1
            else:
                scheduler.on_trial_remove(trial)
        if worker not in running and left:
            trial = Trial(count, _new(scheduler, left), datetime.now())
            count += 1
            scheduler.on_trial_add(trial)
            running[worker] = trial, table.entries[str(trial.config["architecture"])], 0
        if worker in running:
            point = running[worker][2]
            heapq.heappush(events, (now + points[point] - (points[point - 1] if point else 0), worker))
    history = {"seed": seed, "budget": budget, "spent": spent, TOKENS: at, "ended": ended}
    return {**history, "whole": not events}


def _ranks() -> Any:
    """Return a priority by non-dominated sorting: (n, objectives) to the rank of each, 0 for the best."""
    from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import MOPriority
    from syne_tune.optimizer.schedulers.multiobjective.non_dominated_priority import (
        compute_epsilon_net,
        pareto_efficient,
    )

    class Ranks(MOPriority):
        def priority_unsafe(self, objectives: Any) -> Any:
            ranks = np.empty(len(objectives), dtype=np.int64)
            left, done = np.arange(len(objectives)), 0
            while len(left):
                best = pareto_efficient(objectives[left])
                front = left[best]
                ranks[front] = done + compute_epsilon_net(objectives[front], dim=0)
                left, done = left[~best], done + len(front)
            return ranks

    return Ranks()


def _new(scheduler: Any, left: set[str]) -> dict[str, Any]:
    """Return the scheduler's next suggestion that was not made before."""
    while True:
        config: dict[str, Any] = scheduler.suggest().config
        if config["architecture"] in left:
            left.remove(config["architecture"])
            return config


def _searches(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    table = open_table(given.table)
    for seed in range(given.seeds):
        yield search(table, seed, given.workers, given.grace, given.factor, given.repaired, given.trainings)


def main() -> None:
    """Search the table with several seeds and write JSON lines."""
    parser = argparse.ArgumentParser(prog="python -m studies.replay.moasha", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON lines, one per seed")
    parser.add_argument("--table", type=Path, default=FILE)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4, help="simulated workers per search")
    parser.add_argument("--grace", type=float, default=0.22, help="share of a training before the first rung")
    parser.add_argument(
        "--factor", type=float, default=3.0, help="reduction factor: one of this many runs continues"
    )
    parser.add_argument(
        "--trainings",
        type=float,
        default=math.inf,
        help="budget of a search, in whole trainings; unlimited if left out",
    )
    parser.add_argument("--repaired", action="store_true", help="ranks instead of indices")
    given = parser.parse_args()
    with given.out.open("w", encoding="utf-8") as file:
        for result in _searches(given):
            file.write(json.dumps(result) + "\n")
            print(f"seed {result['seed']}: {len(result['ended'])} trained to the end")


if __name__ == "__main__":
    main()
