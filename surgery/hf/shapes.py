"""Replacement of jaxtyping in the code exported with a checkpoint: shapes are documentation, not checked."""

from __future__ import annotations

from typing import Any


class _Shaped:
    """Annotation for which `Float[Tensor, "b t d"]` is the tensor type."""

    def __class_getitem__(cls, item: Any) -> Any:
        return item[0]


Bool = Float = Int = Shaped = UInt8 = Integer = Num = _Shaped
