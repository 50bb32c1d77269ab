"""`nas bench overhead`: figures of a small study, and mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from typer.testing import Result

Nas = Callable[..., Result]


def test_figures_of_a_small_study(nas: Nas) -> None:
    arguments = (
        "bench",
        "overhead",
        "hybrid",
        "--samplers",
        "random",
        "--at",
        "12,16",
        "--workers-simulated",
        3,
    )
    data = json.loads(nas(*arguments, "--json").stdout)
    rows = data["samplers"]["random"]
    assert [row["trials"] for row in rows] == [12, 16]
    for row in rows:
        assert row["duplicates"] == 0
        assert set(row["cpu"]) == {"take", "reach", "end"}
        assert 0 < row["cpu_ms"] < 10 * row["wall_ms"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--at", "20,10"), "must be increasing numbers"),
        (("--at", "x"), "must be increasing numbers"),
        (("--samplers", "gian"), 'did you mean "gain"'),
        (("--stopping", "medium"), 'Did you mean "median"'),
    ],
)
def test_mistakes(nas: Nas, arguments: tuple[str, str], message: str) -> None:
    result = nas("bench", "overhead", "hybrid", *arguments)
    assert result.exit_code == 2
    assert message in str(result.exception) + re.sub(r"[│\s]+", " ", result.stderr)
