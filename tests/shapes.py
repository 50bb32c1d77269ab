"""Shapes in annotations, checked by jaxtyping and beartype while the tests run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import jaxtyping

ROOT = Path(__file__).resolve().parent.parent
_jaxtyped = jaxtyping.jaxtyped


def check() -> None:
    """Check the calls of all functions in modules with shapes, which must not be imported yet."""
    jaxtyping.jaxtyped = _eagerly  # the hook decorates by this name
    jaxtyping.install_import_hook(annotated(), "beartype.beartype")


def annotated() -> list[str]:
    """Modules with shapes in their annotations."""
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("surgery", "studies")
        for path in sorted((ROOT / package).rglob("*.py"))
        if "\nfrom jaxtyping import" in path.read_text(encoding="utf-8")
    ]


def _eagerly(*, typechecker: Any) -> Callable[[Any], Any]:
    """`jaxtyped`, except where Dynamo compiles them: it can't trace the checks."""
    import torch

    def decorate(function: Any) -> Any:
        if isinstance(function, type):
            if is_dataclass(function):
                function.__init__ = decorate(function.__init__)
            return function
        if "<locals>" in function.__qualname__:  # would be decorated at every call
            return function
        checked = _jaxtyped(function, typechecker=typechecker)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            run = function if torch.compiler.is_compiling() else checked
            return run(*args, **kwargs)

        return call

    return decorate
