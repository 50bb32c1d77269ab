"""A part of the shipped table, itself the whole table of a smaller space: searches of it take no time."""

from __future__ import annotations

from dataclasses import replace

from search_spaces import parse_space
from search_spaces.enumeration import every_architecture
from studies.replay.table import Table

FIXED = {
    "backbone.ffn_dim: {choice: [48, 96, 192]}": "backbone.ffn_dim: 96",
    "hdpl.rank: {choice: [4, 8, 16]}": "hdpl.rank: 8",
    'hdpl.layers: {choice: [all, "0-1"]}': "hdpl.layers: all",
    "mixers.window.window: {choice: [8, 32]}": "mixers.window.window: 8",
}


def part_of_table() -> Table:
    """Some 180 architectures."""
    table = Table.open()
    text = table.space.text
    for choice, fixed in FIXED.items():
        assert choice in text
        text = text.replace(choice, fixed)
    space = parse_space(text, "table.yaml")
    every = {item.hash for _, item in every_architecture(space) if not space.violations(item)}
    return replace(table, space=space, entries={name: table.entries[name] for name in sorted(every)})
