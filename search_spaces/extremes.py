"""How far a cost reaches over a space, and whether any architecture meets the constraints."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import median

from search_spaces.constraints import Constraint, values
from search_spaces.trial import ReplayTrial
from search_spaces.variation import Variation
from surgery.architecture import Architecture
from surgery.costs import METRICS, parse_metric
from surgery.options import Cursor

Score = Callable[[Architecture], float]

FIRST_SAMPLES = 64  # nearly every space shows an architecture that is allowed among so few
SAMPLES = 2000
SEED = 20_000


def lowest(variation: Variation, score: Score, enough: float = float("-inf")) -> float:
    """The lowest score that changing one parameter at a time reaches, from both corners of the space.

    Exact for costs that rise or fall with each parameter whatever the others are, as ours nearly do.
    Stops at `enough`.
    """
    best = float("inf")
    for high in (False, True):
        trial = ReplayTrial({}, high=high)
        reached = score(variation.sample(trial))
        improved = True
        while improved and reached > enough:
            improved = False
            for name in list(trial.domains):
                for value in trial.domains.get(name, ()):
                    if value == trial.params.get(name):
                        continue
                    other = ReplayTrial({**trial.params, name: value}, high=high)
                    if (found := score(variation.sample(other))) < reached:
                        trial, reached, improved = other, found, True
        best = min(best, reached)
        if best <= enough:
            break
    return best


def cost_range(variation: Variation, name: str, samples: int, seed: int) -> tuple[int, int, int]:
    """(lowest, median, highest) of an analytic metric; the median is over random architectures.

    Raises:
        ValueError: not a metric, or one that only training can measure.
    """
    metric, context = parse_metric(name)
    if metric.analytic is None:
        raise ValueError(f"{name} is measured by training, not computed")
    measure, at = metric.analytic, context or 0
    source = random.Random(seed)
    drawn = [measure(variation.random(source), at) for _ in range(samples)]
    low = lowest(variation, lambda arch: measure(arch, at))
    high = -lowest(variation, lambda arch: -measure(arch, at))
    return round(min(low, *drawn)), round(median(drawn)), round(max(high, *drawn))


def feasible_share(variation: Variation, constraints: Sequence[Constraint], samples: int, seed: int) -> float:
    """The fraction of random architectures that meet every constraint."""
    source = random.Random(seed)
    return sum(_meets(constraints, variation.random(source)) for _ in range(samples)) / samples


def check_possible(
    variation: Variation, constraints: Sequence[tuple[int, Constraint]], cursor: Cursor
) -> None:
    """Problems for constraints that no architecture of the space meets."""
    wanted = [constraint for _, constraint in constraints]
    source = random.Random(SEED)
    if any(_meets(wanted, variation.random(source)) for _ in range(FIRST_SAMPLES)):
        return
    alone = True
    for place, constraint in constraints:
        if lowest(variation, lambda arch, one=constraint: _excess([one], arch), enough=0) > 0:
            alone = False
            low, high = _reach(variation, constraint)
            metric = METRICS[constraint.metric.name]
            rule = (
                f"no architecture of this space meets it: {constraint.name} reaches from "
                f"{metric.format(low)} to {metric.format(high)}"
            )
            hint = "raise the limit or widen the search" if low > constraint.limit else "change the limit"
            cursor.at(place).problem(str(constraint), rule, hint)
    if not alone or lowest(variation, lambda arch: _excess(wanted, arch), enough=0) <= 0:
        return
    if any(_meets(wanted, variation.random(source)) for _ in range(SAMPLES)):
        return
    texts = ", ".join(map(str, wanted))
    rule = f"each can be met, but none of {SAMPLES} random architectures meets all of them together"
    cursor.problem(texts, rule, "relax one of them")


def _reach(variation: Variation, constraint: Constraint) -> tuple[float, float]:
    low = lowest(variation, lambda arch: constraint.measure(arch))
    return low, -lowest(variation, lambda arch: -constraint.measure(arch))


def _meets(constraints: Sequence[Constraint], architecture: Architecture) -> bool:
    return all(item.amount(item.measure(architecture)) <= 0 for item in constraints)


def _excess(constraints: Sequence[Constraint], architecture: Architecture) -> float:
    return sum(max(0.0, amount) for amount in values(constraints, architecture))
