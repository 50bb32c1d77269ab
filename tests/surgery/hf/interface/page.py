"""The page of the interface table, out of the list of its rows. Run it to write the page anew."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from tests.surgery.hf.interface.cases import COLUMNS
from tests.surgery.hf.interface.rows import Row, rows

PAGE = Path(__file__).resolve().parents[4] / "docs" / "reference" / "interface.md"
HEAD = """# Interface of exported models

What an exported model does with the arguments of transformers, PEFT, accelerate and torch. Every cell is a
test, under the oldest and the newest versions that `pyproject.toml` allows: `=` stands for equal numbers, `x`
for a ValueError that names the argument.

- `identity`: a Llama checkpoint after a surgery that changes nothing, compared with transformers' own
  `LlamaForCausalLM` that holds the same weights.
- `HDPL`: every projection is an HDPL operator. `F` (gated), `W`, `G`, `D`, `S`, `K`, `B`, `R`, `M`, `H`: one
  mixer. `loop`: two passes. They are compared with themselves without the cache, or with the same thing
  written by hand.

This page is made from the tests: `python -m tests.surgery.hf.interface.page`."""


def page() -> str:
    """The page in Markdown."""
    parts = [HEAD]
    for group, members in groupby(rows(), key=lambda row: row.group):
        head = f"| argument | {' | '.join(COLUMNS)} | what is equal, or why it is refused |"
        rule = f"|---|{'---|' * len(COLUMNS)}---|"
        parts.append(f"## {group}")
        parts.append("\n".join([head, rule, *(_line(row) for row in members)]))
    return "\n\n".join(parts) + "\n"


def _line(row: Row) -> str:
    marks = ["x" if row.refuses(column) else "=" for column in COLUMNS]
    return f"| {row.argument} | {' | '.join(marks)} | {row.what} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
