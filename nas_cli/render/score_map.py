"""The map of scores on screen: layers by options, coloured by the logarithm of the score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log
from typing import TYPE_CHECKING

from rich.text import Text

from nas_cli.render.screen import console

if TYPE_CHECKING:
    from studies.reporting.score_map import Column, ScoreMap

# Dark text on light colours reads the same in light and dark terminals.
_COLOURS = ((111, 190, 120), (246, 226, 140), (238, 128, 110))
_INK = "#000000"
_LAYER = 6  # columns for `layer`, and for its number and letter
_DECIMALS = 5  # the point and four digits after it


def print_score_map(scores: ScoreMap) -> None:
    """Print the map and its legend; in several tables where one is too wide."""
    from studies.reporting.score_map import HIGH, LOW

    console.print(f"[bold]{scores.study}[/]: scores of replacements in {scores.model}", soft_wrap=True)
    for columns in _tables(scores, console.width):
        console.print()
        for line in _table(scores, columns):
            console.print(line, no_wrap=True)
    console.print()
    console.print(f"{scores.legend}; colours from green ({LOW:g}) to red ({HIGH:g})", style="dim")


def _tables(scores: ScoreMap, width: int) -> list[list[Column]]:
    """Return the columns of each table: all in one, or the parts apart, or fewer."""
    cell = _cell_width(scores)
    kinds = list(dict.fromkeys(column.part for column in scores.columns))
    if _LAYER + sum(1 + cell * _count(scores, kind) for kind in kinds) <= width:
        return [list(scores.columns)]
    most = max(1, (width - _LAYER - 1) // cell)
    tables = []
    for kind in kinds:
        columns = [column for column in scores.columns if column.part == kind]
        tables += [columns[start : start + most] for start in range(0, len(columns), most)]
    return tables


def _count(scores: ScoreMap, kind: str) -> int:
    return sum(column.part == kind for column in scores.columns)


def _cell_width(scores: ScoreMap) -> int:
    return 1 + _digits(scores) + _DECIMALS


def _digits(scores: ScoreMap) -> int:
    """Return the number of digits before the point."""
    return max((len(str(int(item.mean))) for item in scores.scores.values()), default=1)


def _table(scores: ScoreMap, columns: Sequence[Column]) -> Iterator[Text]:
    cell = _cell_width(scores)
    kinds = [[column.part] if _first(columns, index) else [] for index, column in enumerate(columns)]
    yield from _header("layer", kinds, columns, cell, style="bold")
    yield from _header("", [_wrapped(column.short, cell - 1) for column in columns], columns, cell, style="")
    for layer, letter in enumerate(scores.letters):
        line = Text(f"{layer:>3} {letter} ")
        for index, column in enumerate(columns):
            line.append(" " if _first(columns, index) else "")
            score = scores.score(layer, column)
            text = _aligned(scores.cell(layer, column), _digits(scores))
            line.append(f" {text}", style="dim" if score is None else f"{_INK} on {colour(score.mean)}")
        yield line


def _first(columns: Sequence[Column], index: int) -> bool:
    return index == 0 or columns[index - 1].part != columns[index].part


def _header(
    left: str, words: Sequence[Sequence[str]], columns: Sequence[Column], cell: int, style: str
) -> Iterator[Text]:
    """Yield lines with the words of each column below each other."""
    for number in range(max(map(len, words))):
        line = Text(f"{left if number == 0 else '':<{_LAYER}}", style=style)
        for index, texts in enumerate(words):
            line.append(" " if _first(columns, index) else "")
            line.append(f" {texts[number] if number < len(texts) else '':<{cell - 1}}")
        yield line


def _wrapped(label: str, width: int) -> list[str]:
    """Return a label in lines of at most `width`, broken at spaces or after `,`, `:`, `_` where possible."""
    lines = [""]
    for word in label.replace(",", ", ").replace(":", ": ").replace("_", "_ ").split(" "):
        glue = "" if not lines[-1] or lines[-1][-1] in ",:_" else " "
        if lines[-1] and len(lines[-1] + glue + word) <= width:
            lines[-1] += glue + word
            continue
        pieces = [word[start : start + width] for start in range(0, len(word), width)]
        lines = [*lines, *pieces] if lines[-1] else pieces
    return lines


def _aligned(text: str, digits: int) -> str:
    """Return a number with its point below those of the others."""
    before, point, after = text.partition(".")
    if not point:
        return f"{text:>{digits + _DECIMALS}}"
    return f"{before:>{digits}}{point + after:<{_DECIMALS}}"


def colour(kl: float) -> str:
    """Return the colour of a score, as #rrggbb."""
    from studies.reporting.score_map import HIGH, LOW

    share = log(min(max(kl, LOW), HIGH) / LOW) / log(HIGH / LOW) * (len(_COLOURS) - 1)
    index = min(int(share), len(_COLOURS) - 2)
    pair = zip(_COLOURS[index], _COLOURS[index + 1], strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (share - index)):02x}" for a, b in pair)
