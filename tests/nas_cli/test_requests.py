"""Commands hand their options to a dataclass below, which has the same ones with the same defaults."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from nas_cli.commands.apply import apply
from nas_cli.commands.pick import pick
from nas_cli.commands.search import search
from nas_cli.commands.train import train
from studies.analysis.pick import PickRequest
from studies.healing.request import ApplyRequest
from studies.training.request import TrainRequest
from studies.workers.request import SearchRequest


@pytest.mark.parametrize(
    ("command", "request_type", "renamed"),
    [
        (apply, ApplyRequest, {}),
        (search, SearchRequest, {}),
        (train, TrainRequest, {"tokens": "budget"}),
        (pick, PickRequest, {"limits": "limit"}),
    ],
)
def test_defaults_are_those_of_the_command(
    command: Callable[..., Any], request_type: Any, renamed: dict[str, str]
) -> None:
    parameters = inspect.signature(command).parameters
    for field in dataclasses.fields(request_type):
        if field.default is not dataclasses.MISSING:
            default = parameters[renamed.get(field.name, field.name)].default
            assert field.default == default or (not field.default and default is None), field.name
