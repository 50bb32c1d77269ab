"""Points of loss curves in the form that trackers take: one for each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from search_spaces.proxy import Proxy
from studies.study import Study
from studies.study.trial_record import RUNNING, TrialRecord

Point = tuple[int, dict[str, float]]  # step, values by name


def by_step(points: Iterable[Mapping[str, float]]) -> list[Point]:
    """Merge the lines of a curve that belong to the same step, in the order of the steps."""
    merged: dict[int, dict[str, float]] = {}
    for point in points:
        step = int(point["step"])
        merged.setdefault(step, {}).update({key: value for key, value in point.items() if key != "step"})
    return sorted(merged.items())


def new_points(study: Study, record: TrialRecord, after: int) -> list[Point]:
    """Return the points of a trial after a step.

    Of a trial that runs the last one is left out: the held-out loss of that step may not be written yet. A
    trial of another machine has no curve here, but its losses at the rungs.
    """
    points = by_step(study.curve(record.number)) or _at_rungs(record, study.space.proxy)
    if record.state == RUNNING:
        del points[-1:]
    return [point for point in points if point[0] > after]


def _at_rungs(record: TrialRecord, proxy: Proxy) -> list[Point]:
    steps = record.whole_steps(proxy)
    reached = zip(proxy.rungs, record.rungs, strict=False)
    return [(max(1, round(share * steps)), {"val_loss": loss}) for share, loss in reached]
