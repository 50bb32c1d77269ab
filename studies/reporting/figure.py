"""What all plots share: file formats, colours, writing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgery.config.outputs import check_output
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError

if TYPE_CHECKING:
    pass


PICTURES = (".png", ".svg", ".pdf")


PAGES = (".html",)


GREY, GREEN, PURPLE = "#9aa0a6", "#15803d", "#7e22ce"


def check_plot_path(path: Path) -> None:
    """Raises:
    UserError: an ending we can't draw, a folder that is not there, or a file that is not ours to replace.
    """
    path = expand(path)
    if path.suffix.lower() not in (*PICTURES, *PAGES):
        rule = f"must end in {', '.join((*PICTURES, *PAGES))}"
        raise UserError("can't draw that", [Problem("--plot", str(path), rule)])
    if not path.resolve().parent.is_dir():
        raise UserError("can't draw there", [Problem("--plot", str(path), "its folder does not exist")])
    check_output(path, "--plot", "plot")
