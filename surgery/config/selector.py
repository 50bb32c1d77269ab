"""Layer selectors in files: `0-3,7,-1`, or slices such as `1::2`."""

from __future__ import annotations

import re
from functools import lru_cache

_PART = re.compile(r"(-?\d+)?(?:(-|:)(-?\d+)?(?::(\d+))?)?")


@lru_cache(maxsize=4096)  # called for every projection of every layer
def select_layers(
    selector: str | None, depth: int, *, item: str = "layer", whole: str = "the stack"
) -> tuple[int, ...]:
    """Return the sorted, distinct layer indices of a selector: `0-3,7,-1`, or slices such as `1::2`.

    Args:
        selector: None selects all.
        depth: number of layers.
        item: what is selected, for messages, if it is something else than layers.
        whole: likewise what it is a part of.

    Raises:
        ValueError: not a selector, or a layer that does not exist.
    """
    if selector is None:
        return tuple(range(depth))
    chosen: set[int] = set()
    for part in selector.replace(" ", "").split(","):
        match = _PART.fullmatch(part)
        if not part or match is None:
            raise ValueError(f"'{part}' is not a {item}, a range such as 0-3, or a slice such as 1::2")
        start, mark, stop, step = match.groups()
        if mark == ":":
            indices = range(depth)[
                int(start) if start else None : int(stop) if stop else None : int(step) if step else None
            ]
            chosen.update(indices)
            continue
        if start is None or (mark == "-" and stop is None) or step is not None:
            raise ValueError(f"'{part}' is not a {item}, a range such as 0-3, or a slice such as 1::2")
        first = _index(int(start), depth, item, whole)
        last = _index(int(stop), depth, item, whole) if stop else first
        if last < first:
            raise ValueError(f"'{part}' ends before it starts")
        chosen.update(range(first, last + 1))
    if not chosen:
        raise ValueError(f"'{selector}' selects none of the {depth} {item}s")
    return tuple(sorted(chosen))


def select_span(selector: str | None, depth: int) -> range:
    """Return the layers of a selector that follow one another, such as `2-5` or `1--2`; None is all.

    Raises:
        ValueError: not a selector, a layer that does not exist, or a gap between the layers.
    """
    layers = select_layers(selector, depth)
    span = range(layers[0], layers[-1] + 1)
    if len(span) != len(layers):
        raise ValueError(f"'{selector}' leaves out layers between {span[0]} and {span[-1]}")
    return span


def write_layers(layers: tuple[int, ...], depth: int | None) -> str | None:
    """Return a short selector of these layers: None for all, `1::2` if evenly spaced, else `0-3,7`.

    Args:
        layers: sorted.
        depth: of the stack; None if the selector is to name the same layers in every stack.
    """
    if len(layers) == depth:
        return None
    step = layers[1] - layers[0] if len(layers) > 2 else 1
    if step > 1 and layers == tuple(range(layers[0], layers[-1] + 1, step)):
        stop = "" if depth is not None and layers[-1] + step >= depth else layers[-1] + 1
        return f"{layers[0]}:{stop}:{step}"
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _index(number: int, depth: int, item: str, whole: str) -> int:
    if not -depth <= number < depth:
        raise ValueError(f"{item} {number} does not exist, {whole} has {depth} (0 to {depth - 1})")
    return number % depth
