"""Searches of several tables side by side, as `nas bench search` prints them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from nas_cli.render.screen import console, print_json

if TYPE_CHECKING:
    from studies.benchmarks.search import Replayed, SearchPlan
    from studies.benchmarks.search_figures import Figures
    from studies.replay.table import Table as Replayable


def print_overview(
    plans: Sequence[SearchPlan],
    tables: Sequence[Replayable],
    replayed: Sequence[Sequence[Replayed]],
    *,
    as_json: bool,
) -> None:
    """Print one row per table and number of workers, with ratios to the best of Optuna's samplers.

    Args:
        plans: one per row.
        tables: those that were searched.
        replayed: searches of each plan.
    """
    from studies.benchmarks.search import COMPARED
    from studies.benchmarks.search_figures import LEVEL, best_unstopped, figures
    from studies.replay.table import name_of

    rows = [figures(runs) for runs in replayed]
    bests = [best_unstopped({row.method: row.tokens for row in own}) for own in rows]
    if as_json:
        print_json({
            "searches": [
                {
                    "table": {"name": name_of(plan.table), "architectures": len(table.entries)},
                    "workers": plan.workers, "rungs": plan.rungs, "against": best,
                    "methods": [row.to_dict() for row in own],
                }
                for plan, table, own, best in zip(plans, tables, rows, bests, strict=True)
            ],
        })  # fmt: skip
        return
    plan = plans[0]
    ours = [method for method in plan.methods if method.startswith("gain")] or list(plan.methods)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("table", no_wrap=True)
    for name in ("architectures", "workers", "best of Optuna's", *ours):
        table.add_column(name, justify="right", no_wrap=True)
    for plan, known, own, best in zip(plans, tables, rows, bests, strict=True):
        by_method = {row.method: row for row in own}
        reference = "never" if best is None else f"{by_method[best].tokens[COMPARED][1]:.1f} {best}"
        table.add_row(
            name_of(plan.table),
            str(len(known.entries)),
            str(plan.workers),
            reference,
            *(_ratio(by_method[method]) for method in ours),
        )
    rungs = ",".join(f"{share:g}" for share in plan.rungs)
    console.print(f"rungs at {rungs}, {plan.seeds} seeds\n")
    console.print(table)
    console.print(
        f"\nbest of Optuna's: median tokens to {COMPARED:.0%} of the table's hypervolume without stopping, "
        f"in full training runs; others: ratio to it, with its {LEVEL:.0%} bootstrap interval over the seeds"
    )


def _ratio(row: Figures) -> str:
    if row.ratio is None or row.interval is None:
        return ""
    ratio, low, high = (
        "never" if math.isinf(value) else f"{value:.2f}" for value in (row.ratio, *row.interval)
    )
    return f"{ratio} [{low}, {high}]"
