"""Figures as SVG for web pages: on the page's own background, in colours that follow its light or dark mode.

Both sets of colours are distinct with any colour blindness (Okabe and Ito 2008), and markers differ.
"""

from __future__ import annotations

import re

from studies.reporting.figure import BLACK, BLUE, GREY, ORANGE
from studies.reporting.picture import LABEL, as_svg

_NAMES = {BLUE: "blue", ORANGE: "orange", GREY: "grey", BLACK: "ink", "#000000": "ink"}
_COLOUR = re.compile("|".join(_NAMES))

# of a page that holds such figures; letters and black shapes without a colour of their own inherit `fill`
STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #fff; --line: #d0d7de; --box: #f6f8fa;
        --link: #0969da; --blue: #0072b2; --orange: #d55e00; --grey: #75797e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; --box: #161b22;
          --link: #79c0ff; --blue: #56b4e9; --orange: #e69f00; --grey: #9aa1a8; }
}
body { color: var(--ink); background: var(--paper); }
svg { fill: var(--ink); }
g[id^="LABEL"] text { paint-order: stroke; stroke: var(--paper); stroke-width: 1.5px; stroke-opacity: 0.75; }
""".replace("LABEL", LABEL)


def themed_svg(drawn: object) -> str:
    """Return a figure that was drawn `clear` as an <svg> element for a page with `STYLE`.

    Letters are text: as outlines they would be most of the page.
    """
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):
        svg = as_svg(drawn)
    return _COLOUR.sub(lambda match: f"var(--{_NAMES[match[0]]}, {match[0]})", svg)
