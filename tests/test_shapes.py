"""Shapes in annotations are checked while the tests run (`tests/shapes.py`)."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import get_type_hints

import pytest
import torch
from jaxtyping import TypeCheckError

from surgery.ops.rotary import rotate
from tests.shapes import annotated


def test_a_wrong_shape_fails_the_call() -> None:
    tables = torch.zeros(1, 5, 4), torch.zeros(1, 5, 4)
    rotate(torch.zeros(2, 3, 5, 4), tables)
    with pytest.raises(TypeCheckError, match="rotary"):
        rotate(torch.zeros(2, 3, 6, 4), tables)


@pytest.mark.parametrize("name", annotated())
def test_annotations_can_be_read(name: str) -> None:
    """One that can't is skipped in silence."""
    module = import_module(name)
    for _, item in inspect.getmembers(module, lambda item: getattr(item, "__module__", "") == name):
        for function in [item, *vars(item).values()] if inspect.isclass(item) else [item]:
            if inspect.isfunction(function):
                get_type_hints(function)
