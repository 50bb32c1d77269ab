"""Figures as a web page: the picture as SVG, with the text of the point under the mouse, and zoom.

The page shows what the picture shows, needs no other file and no network, and is some 100 KB large. A copy of
plotly.js alone would be 5 MB.
"""

from __future__ import annotations

import html
import json
from typing import Any

import numpy as np

from studies.reporting.figure import Figure, HeatMap
from studies.reporting.picture import picture
from studies.reporting.themed_svg import STYLE, themed_svg

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
{style}
body {{ margin: 0; font: 14px/1.4 system-ui, sans-serif; }}
svg {{ display: block; margin: auto; width: 100%; height: 96vh; }}
#tip {{ position: fixed; display: none; pointer-events: none; padding: 6px 9px; border-radius: 4px;
       background: var(--ink); color: var(--paper); max-width: 60ch; overflow-wrap: anywhere; }}
</style></head><body>
{svg}
<div id="tip" role="tooltip"></div>
<script>
const points = {points};
const svg = document.querySelector("svg"), tip = document.getElementById("tip");
const whole = svg.viewBox.baseVal, home = [whole.x, whole.y, whole.width, whole.height];
const at = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
svg.addEventListener("mousemove", event => {{
  if (event.buttons) {{
    const scale = svg.getScreenCTM().a;
    whole.x -= event.movementX / scale;
    whole.y -= event.movementY / scale;
    return;
  }}
  const mouse = at(event);
  let best = null, least = 8;
  for (const [x, y, w, h, text] of points) {{
    const away = Math.hypot(Math.max(Math.abs(mouse.x - x) - w, 0), Math.max(Math.abs(mouse.y - y) - h, 0));
    if (away <= least) {{ least = away; best = text; }}
  }}
  tip.style.display = best === null ? "none" : "block";
  if (best === null) return;
  tip.innerHTML = best;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
}});
svg.addEventListener("mouseleave", () => tip.style.display = "none");
svg.addEventListener("wheel", event => {{
  event.preventDefault();
  const mouse = at(event), factor = event.deltaY > 0 ? 1.2 : 1 / 1.2;
  whole.x = mouse.x - (mouse.x - whole.x) * factor;
  whole.y = mouse.y - (mouse.y - whole.y) * factor;
  whole.width *= factor;
  whole.height *= factor;
}}, {{ passive: false }});
svg.addEventListener("dblclick", () => [whole.x, whole.y, whole.width, whole.height] = home);
</script></body></html>
"""


def page(figure: Figure) -> str:
    """Return the page. The wheel zooms, dragging moves, and a double click shows the whole figure again."""
    drawn = picture(figure, clear=True)
    drawn.set_dpi(72)  # that of SVG, so that a pixel is a unit of its coordinates
    return _PAGE.format(
        title=html.escape(figure.title),
        style=STYLE,
        svg=themed_svg(drawn),
        points=json.dumps(_points(figure, drawn), ensure_ascii=False).replace("</", "<\\/"),
    )


def _points(figure: Figure, drawn: Any) -> list[list[Any]]:
    """Return (x, y, half width, half height, HTML) of everything that has a text."""
    entries = []
    height = drawn.bbox.height
    plots = [axes for axes in drawn.axes if axes.get_label() != "<colorbar>"]
    for panel, axes in zip(figure.panels, plots, strict=False):  # one more may hold the legend
        if isinstance(panel, HeatMap):
            half = np.abs(axes.transData.transform((0.5, 0.5)) - axes.transData.transform((0, 0)))
            cells = [
                (column, row, text)
                for row, texts in enumerate(panel.hover)
                for column, text in enumerate(texts)
                if text
            ]
        else:
            half = np.zeros(2)
            cells = [
                (x, y, text)
                for series in panel.series
                for x, y, text in zip(series.x, series.y, series.hover, strict=False)
                if np.isfinite(y)
            ]
        if not cells:
            continue
        x, y, texts = zip(*cells, strict=True)
        pixels = axes.transData.transform(np.column_stack([x, y]).astype(float))
        for pixel, text in zip(pixels, texts, strict=True):
            numbers = [pixel[0], height - pixel[1], *half]
            entries.append([*(round(float(number), 1) for number in numbers), _safe(text)])
    return entries


def _safe(text: str) -> str:
    """Return a text with line breaks as HTML in which nothing else is a tag."""
    return "<br>".join(html.escape(line) for line in text.split("<br>"))
