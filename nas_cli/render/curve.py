"""The loss curve of a trial: a small plot in a terminal, a line of numbers elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas_cli.render.screen import console

if TYPE_CHECKING:
    from collections.abc import Sequence

NUMBERS = 8  # losses in a line of numbers, each the mean of as many steps


def print_curve(curve: Sequence[dict[str, Any]]) -> None:
    """Print the training loss over tokens; nothing of fewer than two points."""
    points = [(point["tokens"], point["loss"]) for point in curve if "loss" in point]
    if len(points) < 2:
        return
    if console.is_terminal:
        held_out = [(point["tokens"], point["val_loss"]) for point in curve if "val_loss" in point]
        _plot(points, held_out)
    else:
        _print_numbers(curve)


def _print_numbers(curve: Sequence[dict[str, Any]]) -> None:
    """Print means of equal stretches of the curve, such as `training loss 6.712 to 8.2k, 5.630 to 16.4k`."""
    from studies.reporting.curve_plot import thinned
    from surgery.config.quantities import format_count

    tokens, losses = thinned(curve, NUMBERS)
    texts = [f"{loss:.3f} to {format_count(at)}" for at, loss in zip(tokens, losses, strict=True)]
    console.print(f"  training loss {', '.join(texts)} tokens", soft_wrap=True)


def _plot(points: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]]) -> None:
    import plotext
    from rich.text import Text

    from surgery.config.quantities import format_count

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(min(console.width, 90), 12)
    plotext.plot(*zip(*points, strict=True), color="gray", marker="braille")
    plotext.scatter(*zip(*held_out, strict=True), color="green+", marker="◆")
    last = points[-1][0]
    plotext.xticks([0, last / 2, last], [format_count(number) for number in (0, last / 2, last)])
    plotext.xlabel("tokens")
    plotext.ylabel("loss (◆ held out)")
    console.print(Text.from_ansi(plotext.build()))
