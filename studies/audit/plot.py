"""Plot of the proxy loss against the loss after longer training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from studies.reporting.drawing import draw
from studies.reporting.figure import BLUE, GREY, ORANGE, Axis, Figure, Panel, Series
from studies.study.trial_names import Names
from surgery.config.quantities import format_count

if TYPE_CHECKING:
    from studies.audit.report import Point, Report

_COLOURS = {"trained": GREY, "on the front": BLUE, "baseline": ORANGE}


def plot_audit(report: Report, path: Path) -> None:
    """Plot an audit; bars are the range of the seeds.

    Raises:
        UserError: the path can't be written or has an unknown extension.
    """
    proxy, audit = report.rows[0], report.audit
    before = "proxy" if audit.heal is None else "before healing"
    across = Axis(f"{before}: {audit.judge} (nats/token)")
    longer = (
        f"{audit.times} times the tokens"
        if audit.heal is None
        else f"{format_count(audit.heal)} tokens of healing"
    )
    up = Axis(f"loss after {longer} (nats/token)")
    names = Names(report.audit.study.space)
    series = [_series(name, points, names) for name, points in _groups(report).items() if points]
    title = f"{report.audit.study.name}: Spearman {proxy.spearman}, tau-b {proxy.kendall}"
    draw(Figure(title, [Panel(across, up, series)], width=5, height=4.2), path)


def _groups(report: Report) -> dict[str, list[Point]]:
    groups: dict[str, list[Point]] = {name: [] for name in _COLOURS}
    for point in report.points:
        kind = "baseline" if point.record.baseline else "on the front" if point.on_front else "trained"
        groups[kind].append(point)
    return groups


def _series(name: str, points: list[Point], names: Names) -> Series:
    below = [point.long_loss - min(point.long_losses) for point in points]
    above = [max(point.long_losses) - point.long_loss for point in points]
    return Series(
        name, [point.proxy_loss for point in points], [point.long_loss for point in points], _COLOURS[name],
        "dot", y_error=(below, above) if any(above) else None,
        labels=[names.label(point.record.baseline or "") for point in points] if name == "baseline" else (),
        hover=[
            f"{names.name(point.record)}<br>{names.design(point.record)}<br>"
            f"{point.proxy_loss:.4f}, then {point.long_loss:.4f} nats/token"
            for point in points
        ],
    )  # fmt: skip
