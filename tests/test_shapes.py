"""Shapes in annotations are checked while the tests run (`tests/shapes.py`)."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import get_type_hints

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from surgery.ops.rotary import rotate
from tests.shapes import annotated, each_form


def test_a_wrong_shape_fails_the_call() -> None:
    tables = torch.zeros(1, 5, 4), torch.zeros(1, 5, 4)
    rotate(torch.zeros(2, 3, 5, 4), tables)
    with pytest.raises(TypeCheckError, match="rotary"):
        rotate(torch.zeros(2, 3, 6, 4), tables)


class _Square:
    result = torch.zeros(2, 2)

    @each_form(typechecker=beartype)
    def __call__(self, x: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
        return self.result


@pytest.mark.parametrize("result", [torch.zeros(2, 3), torch.zeros(2, 2).int()])
def test_a_wrong_result_fails_a_call_whose_arguments_are_known(result: Tensor) -> None:
    square = _Square()
    square(torch.zeros(2, 2))
    square.result = result
    for _ in range(2):
        with pytest.raises(TypeCheckError, match="return value"):
            square(torch.zeros(2, 2))


@pytest.mark.parametrize("name", annotated())
def test_annotations_can_be_read(name: str) -> None:
    """One that can't is skipped in silence."""
    module = import_module(name)
    for _, item in inspect.getmembers(module, lambda item: getattr(item, "__module__", "") == name):
        for function in [item, *vars(item).values()] if inspect.isclass(item) else [item]:
            if inspect.isfunction(function):
                get_type_hints(function)
