"""The probes by name. A probe is measured if its name is an objective; `proxy:` holds its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search_spaces.probes import recall, state
from search_spaces.probes.base import Probe
from surgery.config.options import Cursor, Option


@dataclass(frozen=True)
class ProbeKind:
    """A probe's options and the function that reads them, given the backbone's vocabulary size if known."""

    options: Mapping[str, Option]
    read: Callable[[object, int | None, Cursor], Probe | None]


PROBES = {
    recall.METRIC: ProbeKind(recall.OPTIONS, recall.read_recall),
    # a word problem has its own vocabulary, independent of the backbone's
    state.METRIC: ProbeKind(state.OPTIONS, lambda data, _, cursor: state.read_state(data, cursor)),
}
