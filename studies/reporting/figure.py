"""File formats, colours and path checks that all plots share."""

from __future__ import annotations

from pathlib import Path

from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.files.outputs import check_output

PICTURES = (".png", ".svg", ".pdf")
PAGES = (".html",)
GREY, GREEN, PURPLE = "#9aa0a6", "#15803d", "#7e22ce"


def check_plot_path(path: Path) -> None:
    """Check that a plot can be written to `path`.

    Raises:
        UserError: an unknown file format, a missing folder, or an existing file that `nas` did not write.
    """
    path = expand(path)
    if path.suffix.lower() not in (*PICTURES, *PAGES):
        rule = f"must end in {', '.join((*PICTURES, *PAGES))}"
        raise UserError("can't draw that", [Problem("--plot", str(path), rule)])
    if not path.resolve().parent.is_dir():
        raise UserError("can't draw there", [Problem("--plot", str(path), "its folder does not exist")])
    check_output(path, "--plot", "plot")
