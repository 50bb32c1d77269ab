"""The best choices within limits, exactly, as mixed integer linear programs solved by HiGHS.

After Puzzle (arXiv 2411.19146): an option per part, the sum of scores minimised under limits of the whole
model's costs, then again with a cut that keeps a distance from the choices known, for a diverse pool.
SciPy, which brings HiGHS along, is loaded by the functions, since that takes half a second.
"""

from __future__ import annotations

from studies.selection.problem import Limits, Selection, Solution
from studies.selection.program import Program, program


def solve(
    selection: Selection,
    limits: Limits,
    *,
    pool: int = 1,
    distance: int = 1,
    gap: float = 0.0,
) -> list[Solution]:
    """Return the best choice within the limits, then the best that differ from all before; best first.

    Args:
        limits: (lowest, highest) cost of the whole model by metric; None: no limit.
        pool: how many choices at most; fewer where no more are within the limits.
        distance: parts in which choices of the pool differ at least.
        gap: share of the score by which a choice may miss the optimum; 0: exact.

    Returns:
        Choices with their exact costs, each checked in integers against the limits; none where no choice is
        within them.
    """
    assert pool >= 1
    assert distance >= 1
    rows = program(selection, limits)
    if rows is None:
        return []
    result: list[Solution] = []
    while len(result) < pool:
        solution = _next(selection, limits, rows, gap)
        if solution is None:
            break
        result.append(solution)
        rows.exclude(solution.choice, distance)
    return result


def _next(selection: Selection, limits: Limits, rows: Program, gap: float) -> Solution | None:
    """Return the best choice that the program allows and whose integer costs are within the limits."""
    while True:
        answer = rows.minimise(gap)
        if answer is None:
            return None
        choice, bound = answer
        if selection.keeps(choice, limits):
            score = selection.score(choice)
            return Solution(choice, score, selection.total(choice), max(0.0, score - bound))
        rows.exclude(choice, 1)  # beyond a limit by less than HiGHS's tolerance
