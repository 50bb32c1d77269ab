"""Tokens that searches need: samplers and early-stopping rules replayed on a table with several seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from studies.files.defaults import DEFAULT_SAMPLER, DEFAULT_STOPPING
from studies.replay.public import open_table
from studies.replay.simulation import Plan, Volume, replay
from studies.replay.table import FILE, Table, name_of
from studies.search.samplers import check_sampler
from studies.search.stopping_rules import check_stopping_rule
from studies.study.settings import GAIN
from surgery.config.json_source import parse_object
from surgery.config.problems import Problem, UserError

SHARES = (0.9, 0.95, 0.99)  # of the table's hypervolume
COMPARED = 0.95
POOL = "+pool"  # after `gain`: it chooses from the pool that it has in large spaces, not from the whole table
METHODS = (
    f"{DEFAULT_SAMPLER}/{DEFAULT_STOPPING}", "gain/none", "tpe/forecast", "tpe/none", "nsga2/none",
    "random/forecast", "random/pareto", "random/median", "random/none",
)  # fmt: skip
OVERVIEW = (
    METHODS[0], "gain/none", f"gain{POOL}/{DEFAULT_STOPPING}", f"gain{POOL}/none", "tpe/none", "nsga2/none",
)  # fmt: skip


@dataclass(frozen=True)
class SearchPlan:
    """Settings of the comparison.

    Attributes:
        methods: names SAMPLER/STOPPING; `gain+pool` is `gain` with the pool that it has in large spaces.
        seeds: number of replays of each method, with seeds 0, 1, ...
        rungs: shares of a training, rising to 1; each is a point of the table's curves.
        until: share of the table's hypervolume at which a replay ends; infinite: at the end of the space.
        trials: most trials of a replay; None: the whole space.
    """

    table: Path = FILE
    methods: tuple[str, ...] = METHODS
    seeds: int = 20
    workers: int = 4
    rungs: tuple[float, ...] = (0.15, 1.0)
    until: float = max(SHARES)
    trials: int | None = None


@dataclass(frozen=True)
class Replayed:
    """Result of one replayed search.

    Attributes:
        tokens: total tokens of all workers at the end of each training, in whole trainings; rising.
        shares: share of the table's hypervolume that was dominated from then on.
        lost: share of the table's front that was still paused at the end of a search of the whole space;
            None for a search that ended earlier.
        spent: total tokens of all workers at the end of the search, in whole trainings.
        duplicates: number of architectures trained on more tokens than one training has.
        overhead: milliseconds of suggesting, deciding and storing per trial taken.
    """

    method: str
    seed: int
    tokens: tuple[float, ...]
    shares: tuple[float, ...]
    lost: float | None
    spent: float
    duplicates: int
    overhead: tuple[float, ...] = ()

    def to_reach(self, share: float) -> float:
        """Return the tokens to reach a share of the hypervolume; infinite if it is never reached."""
        return next((at for at, got in zip(self.tokens, self.shares, strict=True) if got >= share), math.inf)


def check_plan(plan: SearchPlan) -> Table:
    """Check the settings and open the table to search.

    Raises:
        UserError: no such table, unknown methods, or rungs that are not points of the table.
    """
    table = open_table(plan.table)
    for method in plan.methods:
        sampler, slash, stopping = method.partition("/")
        if sampler == f"{GAIN}{POOL}":
            sampler = GAIN
        if not slash:
            problem = Problem("--methods", method, "must be SAMPLER/STOPPING", f"such as {METHODS[0]}")
            raise UserError("no such method", [problem])
        check_sampler(sampler)
        check_stopping_rule(stopping)
    points = ", ".join(f"{share:g}" for share in table.fractions)
    rules = [
        (share not in table.fractions, f"{share:g} is no point of the table's curves") for share in plan.rungs
    ]
    rules.append((list(plan.rungs) != sorted(set(plan.rungs)), "must rise"))
    rules.append((plan.rungs[-1:] != (1.0,), "must end with 1, a whole training"))
    given = ",".join(f"{share:g}" for share in plan.rungs)
    problems = [Problem("--rungs", given, rule, f"points are {points}") for broken, rule in rules if broken]
    if problems:
        raise UserError("can't stop at these rungs", problems)
    return table


def replay_all(
    plans: Sequence[SearchPlan], processes: int, on_progress: Callable[[str], None]
) -> list[list[Replayed]]:
    """Replay every method of every plan with every seed.

    Returns a list per plan, sorted by method, then by seed.
    """
    for plan in plans:
        check_plan(plan)
    jobs = [
        (index, plan, method, seed)
        for index, plan in enumerate(plans)
        for seed in range(plan.seeds)
        for method in plan.methods
    ]
    results: list[list[Replayed]] = [[] for _ in plans]
    with _mapping(min(processes, len(jobs))) as mapped:
        on_progress(f"replaying {len(jobs)} searches")
        for done, (index, item) in enumerate(mapped(jobs), start=1):
            results[index].append(item)
            on_progress(
                f"{done} of {len(jobs)} searches replayed, the last {item.method}, seed {item.seed}, "
                f"of {name_of(plans[index].table)}"
            )
    for plan, runs in zip(plans, results, strict=True):
        runs.sort(key=lambda item: (plan.methods.index(item.method), item.seed))
    return results


def read_rival(name: str, path: Path, table: Table, until: float) -> list[Replayed]:
    """Read searches of the same table by another scheduler, as `studies.replay.moasha` writes them.

    Raises:
        UserError: the file can't be read, or is about another table.
    """
    volume = Volume(table)
    results = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            item = parse_object(line)
            shares, share_of = [], Volume(table)
            for architecture in item["ended"]:
                shares.append(share_of.add(architecture))
                if shares[-1] >= until:
                    break
            tokens = tuple(spent / item["budget"] for spent in item["tokens"][: len(shares)])
            whole = len(shares) == len(item["ended"])
            lost = len(volume.front - set(item["ended"])) / len(volume.front) if item["whole"] else None
            spent = item["spent"] / item["budget"] if whole else tokens[-1]
            results.append(Replayed(name, item["seed"], tokens, tuple(shares), lost, spent, 0))
    except OSError as error:
        problem = Problem("--rival", str(path), error.strerror or str(error))
        raise UserError("can't read this rival", [problem]) from error
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        problem = Problem("--rival", str(path), f"does not hold searches of this table: {error!r}")
        raise UserError("can't read this rival", [problem]) from error
    return results


@contextmanager
def _mapping(processes: int) -> Iterator[Callable[[Sequence[Any]], Iterator[tuple[int, Replayed]]]]:
    """Map jobs in this process, or in a pool of processes with one thread each."""
    if processes <= 1:
        yield lambda jobs: map(_replayed, jobs)
        return
    from multiprocessing import get_context

    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a process loads its libraries
    try:
        with get_context("spawn").Pool(processes, _leave_interrupts_to_parent) as pool:
            yield lambda jobs: pool.imap_unordered(_replayed, jobs)
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _leave_interrupts_to_parent() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


_opened = cache(open_table)


def _replayed(job: tuple[int, SearchPlan, str, int]) -> tuple[int, Replayed]:
    index, plan, method, seed = job
    table = _opened(plan.table)
    sampler, _, stopping = method.partition("/")
    pool = sampler.endswith(POOL)
    course = replay(
        table,
        Plan(
            sampler.removesuffix(POOL),
            stopping,
            seed,
            plan.workers,
            plan.rungs,
            plan.trials,
            pool,
            plan.until,
        ),
    )
    budget = table.space.proxy.tokens
    front = Volume(table).front
    return index, Replayed(
        method=method,
        seed=seed,
        tokens=tuple(spent / budget for spent in course.tokens),
        shares=tuple(course.shares),
        lost=len(front & set(course.stopped)) / len(front) if math.isinf(plan.until) else None,
        spent=course.spent / budget,
        duplicates=sum(tokens > budget for tokens in course.trained.values()),
        overhead=tuple(1000 * seconds for seconds in course.overhead),
    )
