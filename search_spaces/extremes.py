"""The range of a cost over a space, and a check that some architecture meets the constraints."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

from search_spaces.constraints import Constraint, values
from search_spaces.replacements import Replacements
from search_spaces.trial import RandomTrial, ReplayTrial
from search_spaces.variation import Variation
from surgery.architecture import Architecture
from surgery.architecture.costs import FORMULAS
from surgery.architecture.metrics import parse_metric
from surgery.config.options import Cursor

Score = Callable[[Architecture], float]

FIRST_SAMPLES = 64  # enough to draw a feasible architecture from nearly every space
SAMPLES = 2000
RANDOM_STARTS = 4
SEED = 20_000


def lowest(variation: Variation, score: Score, enough: float = float("-inf")) -> float:
    """Minimise a score by coordinate descent from both corners of the space and from random starts.

    Exact for costs that are monotonic in each parameter regardless of the others, as ours nearly are. The
    random starts cover interactions (replacing more projections pays only at a low rank). Each random start
    is the best of FIRST_SAMPLES architectures. Stops as soon as a score of at most `enough` is reached.
    """
    best = float("inf")
    for start in _starts(variation, score):
        best = min(best, _descend(variation, score, start, enough))
        if best <= enough:
            break
    return best


def _starts(variation: Variation, score: Score) -> Iterator[ReplayTrial]:
    yield ReplayTrial({}, high=False)
    yield ReplayTrial({}, high=True)
    source = random.Random(SEED)
    for _ in range(RANDOM_STARTS):
        trials = [RandomTrial(source) for _ in range(FIRST_SAMPLES)]
        best = min(trials, key=lambda trial: score(variation.sample(trial)))
        yield ReplayTrial(best.params)


def _descend(variation: Variation, score: Score, trial: ReplayTrial, enough: float) -> float:
    reached = score(variation.sample(trial))
    improved = True
    while improved and reached > enough:
        improved = False
        for name in list(trial.domains):
            for value in trial.domains.get(name, ()):
                if value == trial.params.get(name):
                    continue
                other = ReplayTrial({**trial.params, name: value}, high=trial.high)
                if (value_reached := score(variation.sample(other))) < reached:
                    trial, reached, improved = other, value_reached, True
    return reached


def cost_range(
    variation: Variation | Replacements, name: str, samples: int, seed: int
) -> tuple[int, int, int]:
    """Return (lowest, median, highest) of an analytic metric; the median is over random architectures.

    Raises:
        ValueError: `name` is unknown, or only measured by training.
    """
    metric, context = parse_metric(name)
    if not metric.analytic:
        by = "on a device" if metric.timed else "by training"
        raise ValueError(f"{name} is measured {by}, not computed")
    measure, at = FORMULAS[metric.name], context or 0
    source = random.Random(seed)
    drawn = [measure(variation.random(source), at) for _ in range(samples)]
    if isinstance(variation, Replacements):
        ends = variation.cost_range(name)
        return ends[0], round(median(drawn)), ends[1]
    low = lowest(variation, lambda arch: measure(arch, at))
    high = -lowest(variation, lambda arch: -measure(arch, at))
    return round(min(low, *drawn)), round(median(drawn)), round(max(high, *drawn))


def feasible_share(
    variation: Variation | Replacements, constraints: Sequence[Constraint], samples: int, seed: int
) -> float:
    """Return the fraction of random architectures that meet every constraint on exact costs."""
    constraints = [item for item in constraints if item.metric.analytic]
    source = random.Random(seed)
    return sum(_meets(constraints, variation.random(source)) for _ in range(samples)) / samples


def check_possible(
    variation: Variation, constraints: Sequence[tuple[int, Constraint]], cursor: Cursor
) -> None:
    """Add problems for constraints that no architecture of the space meets; latencies are not known here."""
    constraints = [item for item in constraints if item[1].metric.analytic]
    wanted = [constraint for _, constraint in constraints]
    source = random.Random(SEED)
    met: set[int] = set()
    for _ in range(FIRST_SAMPLES):
        amounts = values(wanted, variation.random(source))
        holding = {index for index, amount in enumerate(amounts) if amount <= 0}
        if len(holding) == len(wanted):
            return
        met |= holding
    doubtful = [item for index, item in enumerate(constraints) if index not in met]
    within_reach = [_check_reach(variation, index, constraint, cursor) for index, constraint in doubtful]
    if not all(within_reach):
        return
    if lowest(variation, partial(_excess, wanted), enough=0) <= 0:
        return
    if any(_meets(wanted, variation.random(source)) for _ in range(SAMPLES)):
        return
    each = "each can be met by itself, but " if len(wanted) > 1 else ""
    rule = f"{each}none of {SAMPLES} random architectures meets {'all of them together' if each else 'it'}"
    cursor.problem(", ".join(map(str, wanted)), rule, "relax one of them" if each else "loosen it")


def _check_reach(variation: Variation, index: int, constraint: Constraint, cursor: Cursor) -> bool:
    """Return whether the metric's range over the space overlaps the constraint's; add a problem if not."""
    low, high = lowest(variation, constraint.measure), -lowest(variation, lambda a: -constraint.measure(a))
    return check_range(constraint, (low, high), cursor.at(index))


def check_range(constraint: Constraint, reach: tuple[float, float], cursor: Cursor) -> bool:
    """Return whether the range that a metric reaches overlaps the constraint's; add a problem if not.

    The range is in steps of the metric.
    """
    low, high = reach
    least, most = constraint.interval
    if (most is None or low <= most) and (least is None or high >= least):
        return True
    text = f"from {constraint.format(low)} to {constraint.format(high)}"
    rule = f"no architecture of this space meets it: {constraint.name} reaches {text}"
    cursor.problem(str(constraint), rule, "change the limit or widen the search")
    return False


def _meets(constraints: Sequence[Constraint], architecture: Architecture) -> bool:
    return all(item.amount(item.measure(architecture)) <= 0 for item in constraints)


def _excess(constraints: Sequence[Constraint], architecture: Architecture) -> float:
    return sum(max(0.0, amount) for amount in values(constraints, architecture))
