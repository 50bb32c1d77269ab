"""Analysis of a study on screen: importances as bars, dead hyperparameters, hypervolume over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.text import Text

from nas_cli.render.fitted import Cells, Column, fitted_table
from nas_cli.render.screen import console, duration

if TYPE_CHECKING:
    from studies.analysis.dead_knobs import DeadKnob
    from studies.analysis.hypervolume_growth import Growth
    from studies.analysis.importances import Importances

BAR, NARROW_BAR = 20, 8  # characters for an importance of 1
WIDE = 110  # columns of a terminal from which on bars are long
SPARK = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40


def print_growth(growth: Growth, work: str) -> None:
    """Print the hypervolume over tokens as a sparkline; `work` is what took the time, such as training."""
    from surgery.config.quantities import format_count

    if not len(growth.volumes):
        return
    last = growth.volumes[-1]
    line = sparkline(growth.tokens.tolist(), growth.volumes.tolist())
    console.print(
        f"  hypervolume {line} {last:.3f} after {format_count(growth.tokens[-1])} tokens, "
        f"{duration(growth.seconds[-1])} of {work}"
    )
    for name, alone in growth.alone.items():
        mean, cost = alone.volumes[0, -1], format_count(alone.tokens[-1])
        console.print(f"  [dim]its {alone.trials} {name} trials alone: {mean:.3f} after {cost} tokens[/]")


def sparkline(across: Sequence[float], values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """Return a step function from (0, 0) to its last point as blocks; the full block is the highest value."""
    end, top = across[-1], max(values)
    marks = []
    for column in range(width):
        here = end * (column + 1) / width
        value = max((value for at, value in zip(across, values, strict=True) if at <= here), default=0.0)
        marks.append(SPARK[round(value / top * (len(SPARK) - 1))] if top > 0 else SPARK[0])
    return "".join(marks)


def print_importances(importances: Importances) -> None:
    """Print one row per field, with bars for both importances."""
    title = (
        f"importances over {importances.trials} trials: what distinguishes the best {importances.best} "
        f"(PED-ANOVA, fractions of 1); effect on {importances.loss_name}"
    )
    columns = [
        Column("field", least=16, justify="left"),
        Column("for the front", justify="left"),
        Column(f"for {importances.loss_name}", justify="left"),
        Column("trials", rank=3),
        Column("p", rank=1),
        Column("means differ by", rank=2),
        Column("costs", rank=4),
    ]
    width = BAR if console.width >= WIDE else NARROW_BAR
    rows: list[Cells] = []
    for field in importances.fields:
        p = "" if field.p is None else f"{field.p:.3f}"
        rows.append([
            Text(field.name), _bar(field.front, width), _bar(field.loss, width), str(field.trials),
            f"[bold]{p}[/]" if field.p is not None and field.p <= 0.05 else p,
            f"{field.spread:.3f}", "changes" if field.changes_costs else "same",
        ])  # fmt: skip
    console.print(Text(title, style="italic"))
    console.print(fitted_table(columns, rows))
    console.print(
        "[dim]p: tests whether the loss depends on the field beyond what the other fields explain "
        "(permutation test; not corrected for the number of fields)[/]"
    )


def _bar(share: float, width: int) -> str:
    return f"[green]{'█' * round(share * width):<{width}}[/] {share:.2f}"


def print_dead_knobs(knobs: Sequence[DeadKnob], trials: int, *, gradients: bool) -> None:
    """Print the dead hyperparameters, and which checks were impossible."""
    from studies.analysis.dead_knobs import FEWEST

    console.print("[bold]dead hyperparameters[/]" if knobs else "no dead hyperparameters found")
    for knob in knobs:
        console.print(f"  {escape(str(knob))}", soft_wrap=True)
    if trials < FEWEST:
        console.print(
            f"[dim]{trials} trials are too few to say that a field has no effect (at least {FEWEST})[/]"
        )
    if not gradients:
        console.print("[dim]gradients were not checked: the study's text is not on this machine[/]")
