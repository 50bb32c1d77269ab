"""`nas bench lanes` and the option `--lanes`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

Nas = Callable[..., Result]


def test_lanes_have_the_losses_of_trainings_alone(nas: Nas) -> None:
    """The first lane's loss is the same in any number of lanes; others have other seeds."""
    result = nas(
        "bench", "lanes", "tiny", "--lanes", 1, "--lanes", 3, "--steps", 2, "--device", "cpu", "--json"
    )
    alone, three = json.loads(result.stdout)["lanes"]["dense"]
    assert (alone["lanes"], three["lanes"]) == (1, 3)
    assert alone["losses"][0] == three["losses"][0]
    assert len(set(three["losses"])) == 3
    assert "the same" in nas("bench", "lanes", "tiny", "--lanes", 2, "--steps", 1, "--device", "cpu").stdout


@pytest.mark.parametrize("lanes", ["none", "-1", "65", "1.5"])
def test_wrong_numbers_of_lanes_are_refused(nas: Nas, lanes: str) -> None:
    result = nas("search", "tiny", "--lanes", lanes)
    assert result.exit_code == 2
    assert "must be auto, or a whole number from 1 to 64" in " ".join(result.output.split())


def test_baselines_are_checked_first(nas: Nas) -> None:
    result = nas("bench", "lanes", "tiny", "--baseline", "no")
    assert result.exit_code == 2
    assert "is not a baseline of the space" in str(result.exception)
