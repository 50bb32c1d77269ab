"""Stands in for jaxtyping in the code that travels with a checkpoint: shapes are for readers, not checked."""

from __future__ import annotations

from typing import Any


class _Shaped:
    """`Float[Tensor, "b t d"]` is just the tensor type."""

    def __class_getitem__(cls, item: Any) -> Any:
        return item[0]


Bool = Float = Int = Shaped = UInt8 = Integer = Num = _Shaped
