"""Choice of the architecture to train again, so that the front is decided with the fewest runs.

First the noise has to be known: architectures of the front are trained again until the pooled standard
deviation has FEWEST_DF degrees of freedom. Then each run goes to the architecture for which it reduces most
variance of what is undecided: one that may or may not be on the front counts with p (1 - p), for itself and
for the rivals that decide it; the n-th further run takes s^2 / (n (n + 1)) off the variance of a mean. Then
what was chosen is confirmed (`studies.search.confirmation`). Last come the designs to beat that may or may
not be beaten, with the rivals that may beat them, the fewest runs first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import optuna
from optuna.trial import TrialState

from search_spaces.objectives import Objective
from studies.analysis.marks import Marks
from studies.analysis.standings import ORIGINAL, Standing, Standings
from studies.analysis.versus_baselines import FEWEST_DF, UNKNOWN, VersusBaselines
from studies.files.defaults import DEFAULT_EACH
from studies.search.assignment import Assignment, Nothing, admit
from studies.search.confirmation import chosen, next_confirmation
from studies.search.requeue import requeue_orphans
from studies.search.search import Search
from studies.stats.pareto import front_indices
from studies.storage.attributes import CONFIRMS, REPEAT, REPEAT_OF, WORKER
from studies.storage.optuna_access import as_trial, create_running_trial, set_state
from studies.study import Study
from studies.study.trial_record import REPEAT_RUNNING, REPEAT_WAITING, TrialRecord


def take_repeat(
    search: Search,
    worker: str,
    target: int | None,
    should_stop: Callable[[], bool] | None = None,
    *,
    most: int = DEFAULT_EACH,
) -> Assignment | Nothing:
    """Return the next replicate to train, as `assignment.take` returns the next architecture.

    Args:
        target: replicates that the study shall have in all; None is no limit.
        most: runs of one architecture.
    """
    if should_stop is not None and should_stop():
        return Nothing(wait=True)
    study = search.study
    with study.exclusive():
        requeue_orphans(study)
        records = study.records()
        ended = sum(record.repeated for record in records)
        running = sum(record.state == REPEAT_RUNNING for record in records)
        if target is not None and ended >= target:
            return Nothing(wait=False, reason=f"{ended} repeats are trained")
        if target is not None and ended + running >= target:
            return Nothing(wait=True)
        trial = _waiting(study, records)
        if trial is None:
            possible = most if search.most_runs is None else min(most, search.most_runs)
            standings = Standings.of(study, records)
            marks = Marks.of(study, standings)
            versus = VersusBaselines(records, standings, study.space)
            job = next_job(
                records, standings, versus, chosen(standings, marks), possible, room=search.most_runs
            )
            if job is None:
                reason = f"nothing is left to repeat after {ended} repeats"
                if possible < most:
                    reason += f"; {limited_by_text(possible)}"
                return Nothing(wait=running > 0, reason=reason)
            trial = _begin(study, worker, job, records)
        assignment = admit(search, trial, worker, records)
        assert assignment is not None, "a repeat is always trained"
        return assignment


def limited_by_text(stretches: int) -> str:
    """Return, in words, why a design of a pretrained model is measured no more often."""
    count = "a single stretch" if stretches == 1 else f"{stretches} stretches"
    times = "once" if stretches == 1 else f"at most {stretches} times"
    return f"the held-out text has {count} of eval_tokens tokens: a design is measured {times}"


def is_alone(standings: Standings) -> bool:
    """Return whether there are no two architectures to tell apart; the pretrained model itself is none."""
    return sum(row.record.baseline != ORIGINAL for row in standings.rows) < 2


class Job(NamedTuple):
    """An architecture to train again, and whether that confirms it."""

    record: TrialRecord
    confirms: bool = False


def next_job(
    records: Sequence[TrialRecord], standings: Standings, versus: VersusBaselines | None,
    wanted: Collection[int], most: int, *, room: int | None = None,
) -> Job | None:  # fmt: skip
    """Return what to train next: for the front, to confirm what was chosen, then for the designs to beat.

    Args:
        records: all trials.
        standings: of these.
        versus: comparisons with the designs to beat, if there are any.
        wanted: numbers of what was chosen.
        most: runs of an architecture that decide about the front.
        room: all runs of an architecture that are possible; None: any number.
    """
    record = next_run(records, standings, most)
    if record is not None:
        return Job(record)
    record = None if standings.noise is None else next_confirmation(records, wanted, most, room)
    if record is not None:
        return Job(record, confirms=True)
    record = None if versus is None else _next_for_designs(records, versus, most)
    return None if record is None else Job(record)


def next_run(records: Sequence[TrialRecord], standings: Standings, most: int) -> TrialRecord | None:
    """Return the architecture to train again so that the front is decided.

    None if nothing is left for that, or it waits for replicates.
    """
    attempts, begun = _attempts(records)
    free = {number for number, count in attempts.items() if count < most}
    if (standings.noise.df if standings.noise else 0) + begun.total() < FEWEST_DF:
        best = [row.record for row in _best(standings, FEWEST_DF) if row.record.number in free]
        if best:
            return min(best, key=lambda record: attempts[record.number])
    scores = {
        number: score / (attempts[number] * (attempts[number] + 1))
        for number, score in doubt(standings).items()
        if number in free
    }
    if not scores:
        return None
    return records[max(scores, key=lambda number: (scores[number], -number))]


def _next_for_designs(
    records: Sequence[TrialRecord], versus: VersusBaselines, most: int
) -> TrialRecord | None:
    """Return the one with the fewest runs of the designs and rivals that are undecided."""
    attempts, _ = _attempts(records)
    left = [number for number in undecided_duels(versus) if attempts.get(number, most) < most]
    return records[min(left, key=lambda number: (attempts[number], number))] if left else None


def _attempts(records: Sequence[TrialRecord]) -> tuple[dict[int, int], Counter[int | None]]:
    """Return the runs of each architecture that decide about it, failed and begun ones too; those begun."""
    begun = Counter(
        record.repeat_of
        for record in records
        if record.state in (REPEAT_RUNNING, REPEAT_WAITING) and not record.confirms
    )
    attempts = {
        record.number: len(record.runs) + record.failed_runs + begun[record.number]
        for record in records
        if record.runs and record.baseline != ORIGINAL
    }
    return attempts, begun


def undecided_duels(versus: VersusBaselines) -> set[int]:
    """Return the designs to beat of which it is open whether they are beaten, and their rivals, by number."""
    involved = set()
    for duel in versus.duels:
        if duel.outcome != UNKNOWN or duel.rival is None or duel.ahead is None or duel.half is None:
            continue
        if duel.ahead + duel.half > 0:
            involved |= {duel.baseline.number, duel.rival.number}
    return involved


def doubt(standings: Standings) -> dict[int, float]:
    """Return, by number, how much is undecided because of an architecture.

    It is the sum of p (1 - p) over itself and over those that it may dominate.
    """
    doubts: dict[int, float] = defaultdict(float)
    for row in standings.undecided:
        assert row.p_front is not None
        for involved in (row, *standings.rivals(row)):
            doubts[involved.record.number] += row.p_front * (1 - row.p_front)
    return dict(doubts)


class Left(NamedTuple):
    """The work that refining has left: on the front, to confirm what was chosen, on designs to beat."""

    front: bool
    confirmation: bool
    designs: bool


def left_to_do(
    records: Sequence[TrialRecord], standings: Standings, versus: VersusBaselines, wanted: Collection[int],
    most: int,
) -> Left:  # fmt: skip
    """Return what refining would still do; the arguments are those of `next_job`."""
    if is_alone(standings):
        return Left(front=False, confirmation=False, designs=False)
    front = next_run(records, standings, most) is not None
    known = standings.noise is not None
    return Left(
        front,
        known and next_confirmation(records, wanted, most) is not None,
        known and _next_for_designs(records, versus, most) is not None,
    )


def _best(standings: Standings, count: int) -> list[Standing]:
    """Return the front, then the front of the rest, and so on, until there are `count` architectures."""
    left, best = list(standings.rows), list[Standing]()
    objectives: Sequence[Objective] = standings.objectives
    while left and len(best) < count:
        points = [row.record.values for row in left if row.record.values is not None]
        layer = set(front_indices(points, objectives))
        best += [row for index, row in enumerate(left) if index in layer]
        left = [row for index, row in enumerate(left) if index not in layer]
    return best


def _waiting(study: Study, records: Sequence[TrialRecord]) -> optuna.Trial | None:
    """Return a replicate whose worker was interrupted or killed, set running again."""
    for record in records:
        if record.state == REPEAT_WAITING:
            trial = study.trial(record.number)
            if set_state(study.inner, trial, TrialState.RUNNING):
                return as_trial(study.inner, trial)
    return None


def _begin(study: Study, worker: str, job: Job, records: Sequence[TrialRecord]) -> optuna.Trial:
    """Create a replicate, running and signed from its first moment."""
    original = job.record
    used = [record.repeat for record in records if record.repeat_of == original.number]
    attributes = {REPEAT_OF: original.number, REPEAT: max(used, default=0) + 1, WORKER: worker}
    if job.confirms:
        before = [record.confirms for record in records if record.repeat_of == original.number]
        attributes[CONFIRMS] = max(before, default=0) + 1
    return create_running_trial(study.inner, original.params, attributes)
