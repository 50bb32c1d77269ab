"""Small SVG pictures of one trial: its layers, and its loss curve. They need no library and few bytes."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence

from studies.reporting.curve_plot import thinned
from studies.reporting.figure import BLUE, GREY, ORANGE
from surgery.architecture import Architecture
from surgery.architecture.strip import ABSENT, DENSE, REPLACED, RESIZED, strip_key, strip_rows
from surgery.config.quantities import format_count

_CELL, _LABEL = 26, 52  # pixels
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 480, 260, 56, 40  # of the curve, and of the margins with its axes
_INK, _PALE = "#1f2328", "#e6e9ec"
_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" '
    'font-family="sans-serif" font-size="12"><rect width="{w}" height="{h}" fill="#fff"/>'
)


def layers_svg(architecture: Architecture) -> str:
    """Return a picture with a column per layer, the bottom layer first, and a row per projection."""
    rows = strip_rows(architecture)
    depth = architecture.backbone.num_layers
    key = _key(architecture)
    width = max(_LABEL + _CELL * depth + 10, _WIDTH)
    height = _CELL * (len(rows) + 1) + 12 * len(key) + 10
    parts = [_HEAD.format(w=width, h=height)]
    for number, row in enumerate(rows):
        y = 5 + number * _CELL
        parts.append(_text(_LABEL - 8, y + 17, row.label, anchor="end"))
        for layer, (mark, _) in enumerate(row.cells):
            x = _LABEL + layer * _CELL
            if number == 0:
                parts.append(_text(x + _CELL / 2 - 1, y + 17, mark, anchor="middle", weight="bold"))
            elif mark != ABSENT:
                fill = {DENSE: _PALE, RESIZED: ORANGE}.get(mark, BLUE)
                parts.append(
                    f'<rect x="{x}" y="{y + 1}" width="{_CELL - 3}" height="{_CELL - 3}" fill="{fill}"/>'
                )
    which = "" if architecture.loop_place is None else f"layers {architecture.loop_place} "
    loops = f", {which}run {architecture.loop_count} times" if architecture.loop_count > 1 else ""
    legend = f"layers 0 to {depth - 1}{loops}"
    for number, line in enumerate([legend, *key]):
        parts.append(_text(5, _CELL * len(rows) + 22 + 12 * number, line, size=9))
    return "".join([*parts, "</svg>"])


def _key(architecture: Architecture) -> list[str]:
    """Return what the letters and colours of an architecture's picture mean, in lines."""
    colours = {DENSE: "pale:", RESIZED: "orange:", REPLACED: "blue:"}
    words = [f"{colours.get(sign, sign)} {meaning}" for sign, meaning in strip_key(architecture)]
    return textwrap.wrap(", ".join(words), 90)


def curve_svg(curve: Sequence[dict[str, float]], title: str) -> str | None:
    """Return a picture of the training loss (line) and held-out loss (rings) over tokens."""
    x, y = thinned(curve, most=100)
    if len(x) < 2:
        return None
    held_out = [(point["tokens"], point["val_loss"]) for point in curve if "val_loss" in point]
    low = min([*y, *(loss for _, loss in held_out)])
    high = max(y)
    span = high - low or 1.0

    def at(tokens: float, loss: float) -> tuple[float, float]:
        across = _LEFT + (tokens / x[-1]) * (_WIDTH - _LEFT - 16)
        return round(across, 1), round(30 + (high - loss) / span * (_HEIGHT - _BOTTOM - 30), 1)

    line = " ".join(f"{across},{up}" for across, up in map(at, x, y))
    parts = [
        _HEAD.format(w=_WIDTH, h=_HEIGHT),
        _text(8, 18, title),
        *(_tick_y(loss, at(0, loss)) for loss in (low, low + span / 2, high)),
        *(_tick_x(tokens, at(tokens, low)) for tokens in (x[-1] / 2, x[-1])),
        _text(_LEFT, _HEIGHT - 6, "loss (nats/token) over tokens; rings: held-out text", size=10),
        f'<polyline points="{line}" fill="none" stroke="{GREY}" stroke-width="1.5"/>',
    ]
    for tokens, loss in held_out:
        across, up = at(tokens, loss)
        parts.append(f'<circle cx="{across}" cy="{up}" r="4" fill="none" stroke="{BLUE}" stroke-width="2"/>')
        parts.append(_text(across - 6, up - 8, f"{loss:.3f}", anchor="end", size=10))
    return "".join([*parts, "</svg>"])


def _tick_y(loss: float, at: tuple[float, float]) -> str:
    grid = f'<line x1="{_LEFT}" x2="{_WIDTH - 16}" y1="{at[1]}" y2="{at[1]}" stroke="{_PALE}"/>'
    return grid + _text(_LEFT - 6, at[1] + 4, f"{loss:.2f}", anchor="end", size=10)


def _tick_x(tokens: float, at: tuple[float, float]) -> str:
    return _text(at[0], _HEIGHT - _BOTTOM + 16, format_count(tokens), anchor="middle", size=10)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{_INK}">{html.escape(text)}</text>'
    )
