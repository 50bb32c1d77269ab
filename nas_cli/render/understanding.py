"""What a study has taught so far, for a screen: importances as bars, dead knobs, the growing hypervolume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from nas_cli.render.screen import console, duration

if TYPE_CHECKING:
    from studies.analysis.dead_knobs import DeadKnob
    from studies.analysis.hypervolume_growth import Growth
    from studies.analysis.importances import Importances

BAR = 20  # characters of an importance of 1
SPARK = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40


def print_growth(found: Growth) -> None:
    """The hypervolume over tokens as one line."""
    from surgery.config.quantities import format_count

    if not len(found.volumes):
        return
    last = found.volumes[-1]
    line = sparkline(found.tokens.tolist(), found.volumes.tolist())
    console.print(
        f"  hypervolume {line} {last:.3f} after {format_count(found.tokens[-1])} tokens, "
        f"{duration(found.seconds[-1])} of training"
    )
    for name, alone in found.alone.items():
        mean, cost = alone.volumes[0, -1], format_count(alone.tokens[-1])
        console.print(f"  [dim]its {alone.trials} {name} trials alone: {mean:.3f} for {cost} tokens[/]")


def sparkline(across: Sequence[float], values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """A step function from (0, 0) to its last point; the full block is the highest value."""
    end, top = across[-1], max(values)
    marks = []
    for column in range(width):
        here = end * (column + 1) / width
        value = max((value for at, value in zip(across, values, strict=True) if at <= here), default=0.0)
        marks.append(SPARK[round(value / top * (len(SPARK) - 1))] if top > 0 else SPARK[0])
    return "".join(marks)


def print_importances(found: Importances) -> None:
    """A row a field, bars for both importances."""
    title = (
        f"importances over {found.trials} trials: what sets the best {found.best} apart "
        f"(PED-ANOVA, shares of 1); effect on {found.loss_name}"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for head in ("field", "for the front", f"for {found.loss_name}"):
        table.add_column(head, no_wrap=True)
    for head in ("trials", "p", "means differ by", "costs"):
        table.add_column(head, justify="right", no_wrap=True)
    for field in found.fields:
        p = "" if field.p is None else f"{field.p:.3f}"
        table.add_row(
            field.name, _bar(field.front), _bar(field.loss), str(field.trials),
            f"[bold]{p}[/]" if field.p is not None and field.p <= 0.05 else p,
            f"{field.spread:.3f}", "changes" if field.changes_costs else "same",
        )  # fmt: skip
    console.print(table)
    console.print(
        "[dim]p: does the loss depend on the field at all (Kruskal-Wallis, shuffled; each field by itself, "
        "not corrected for their number)[/]"
    )


def _bar(share: float) -> str:
    return f"[green]{'█' * round(share * BAR):<{BAR}}[/] {share:.2f}"


def print_dead_knobs(knobs: Sequence[DeadKnob], trials: int, *, gradients: bool) -> None:
    from studies.analysis.dead_knobs import FEWEST

    console.print("[bold]dead knobs[/]" if knobs else "no dead knob found")
    for knob in knobs:
        console.print(f"  {escape(str(knob))}", soft_wrap=True)
    if trials < FEWEST:
        console.print(
            f"[dim]{trials} trials are too few to call a field without effect (it takes {FEWEST})[/]"
        )
    if not gradients:
        console.print("[dim]gradients were not looked at: the study's text is not on this machine[/]")
