"""Files of figures: a picture for a paper, or a page for a browser, by the path's extension."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studies.reporting.figure import Figure
from studies.reporting.page import page
from studies.reporting.picture import picture
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.files.outputs import MARK, check_output, output

PICTURES = (".png", ".svg", ".pdf")
PAGES = (".html",)


def check_plot_path(path: Path) -> None:
    """Check that a plot can be written to `path`.

    Raises:
        UserError: an unknown file format, a missing folder, or an existing file that `nas` did not write.
    """
    _check(path, (*PICTURES, *PAGES), "--plot", "plot", "draw")


def check_page_path(path: Path) -> None:
    """Check that a page can be written to `path`.

    Raises:
        UserError: it is no .html file, its folder is missing, or a file is there that `nas` did not write.
    """
    _check(path, PAGES, "--output", "page", "write")


def _check(path: Path, endings: Sequence[str], option: str, what: str, verb: str) -> None:
    path = expand(path)
    if path.suffix.lower() not in endings:
        problem = Problem(option, str(path), f"must end in {', '.join(endings)}")
        raise UserError(f"can't {verb} that", [problem])
    if not path.resolve().parent.is_dir():
        raise UserError(f"can't {verb} there", [Problem(option, str(path), "its folder does not exist")])
    check_output(path, option, what)


def write_page(text: str, path: Path) -> None:
    """Write a page with a mark that `nas` wrote it.

    Raises:
        UserError: the path can't be written.
    """
    check_page_path(path)
    with output(path, "--output", "page") as file:
        file.write_text(f"{text}<!-- {MARK} -->\n", encoding="utf-8")


def draw(figure: Figure, path: Path) -> None:
    """Draw a figure as a picture or a page, by the path's extension, with a mark that `nas` wrote it.

    Raises:
        UserError: the path can't be written or has an unknown extension.
    """
    check_plot_path(path)
    with output(path, "--plot", "plot") as file:
        if file.suffix.lower() in PAGES:
            file.write_text(f"{page(figure)}<!-- {MARK} -->\n", encoding="utf-8")
        else:
            key = "Software" if file.suffix.lower() == ".png" else "Creator"
            picture(figure).savefig(file, metadata={key: f"matplotlib, {MARK}"})
