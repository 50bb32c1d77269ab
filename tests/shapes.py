"""Shapes in annotations, checked by jaxtyping and beartype while the tests run.

A check takes far longer than most calls on small tensors. So a call is checked only if no earlier one of the
same function had the same form: shapes, dtypes and numbers of what goes in and comes out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import is_dataclass
from functools import cache, update_wrapper, wraps
from pathlib import Path
from types import FunctionType
from typing import Any

import jaxtyping

ROOT = Path(__file__).resolve().parent.parent
_jaxtyped = jaxtyping.jaxtyped


def check() -> None:
    """Check the calls of all functions in modules with shapes, which must not be imported yet."""
    jaxtyping.jaxtyped = each_form  # the hook decorates by this name
    jaxtyping.install_import_hook(annotated(), "beartype.beartype")


def annotated() -> list[str]:
    """Modules with shapes in their annotations."""
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("surgery", "studies")
        for path in sorted((ROOT / package).rglob("*.py"))
        if "\nfrom jaxtyping import" in path.read_text(encoding="utf-8")
    ]


def each_form(*, typechecker: Any) -> Callable[[Any], Any]:
    """`jaxtyped` for calls of a new form, except where Dynamo compiles them: it can't trace the checks."""
    import torch

    def decorate(function: Any) -> Any:
        if isinstance(function, type):
            if is_dataclass(function):
                function.__init__ = decorate(function.__init__)
            return function
        if "<locals>" in function.__qualname__:  # would be decorated at every call
            return function
        check = cache(lambda: _checker(function, typechecker))
        seen: dict[Hashable, set[Hashable]] = {}  # forms of arguments, and of the results with them

        def run(*args: Any, **kwargs: Any) -> Any:
            given = _form((args, kwargs))
            known = seen.get(given)
            if known is None:
                result = check()(function, args, kwargs)
                seen[given] = {_form(result)}
                return result
            result = function(*args, **kwargs)
            form = _form(result)
            if form not in known:
                check()(lambda *args, **kwargs: result, args, kwargs)
                known.add(form)
            return result

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (function if torch.compiler.is_compiling() else run)(*args, **kwargs)

        return call

    tensors, sequences, plain = {torch.Tensor, torch.nn.Parameter}, {tuple, list}, {int, bool, str}

    def _form(value: Any) -> Hashable:
        """Return all of a value that a check depends on. By exact types, since this runs at every call."""
        kind = type(value)
        if kind in tensors:
            return value.shape, value.dtype
        if kind in sequences:
            return kind, *[_form(item) for item in value]
        if kind is dict:
            return kind, *[(key, _form(item)) for key, item in value.items()]
        return (kind, value) if kind in plain else kind

    return decorate


def _checker(function: FunctionType, typechecker: Any) -> Callable[..., Any]:
    """Return what calls another function with arguments, and checks both ends by this one's annotations."""
    called = threading.local()

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        return called.function(*args, **kwargs)

    # jaxtyping reads annotations among the globals of the function that it decorates
    other = FunctionType(stand_in.__code__, function.__globals__, closure=stand_in.__closure__)
    checked = _jaxtyped(update_wrapper(other, function), typechecker=typechecker)

    def run(other: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called.function = other
        return checked(*args, **kwargs)

    return run
