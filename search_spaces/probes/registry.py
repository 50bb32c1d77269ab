"""The probes by name. Each is measured where its name is an objective, and set under it in `proxy:`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search_spaces.probes import recall, state
from search_spaces.probes.base import Probe
from surgery.config.options import Cursor, Option


@dataclass(frozen=True)
class ProbeKind:
    """The fields of a probe's section, and how they are read against the backbone's vocabulary, if any."""

    options: Mapping[str, Option]
    read: Callable[[object, int | None, Cursor], Probe | None]


PROBES = {
    recall.METRIC: ProbeKind(recall.OPTIONS, recall.read_recall),
    # a word problem has a vocabulary of its own and asks nothing of the backbone's
    state.METRIC: ProbeKind(state.OPTIONS, lambda data, _, cursor: state.read_state(data, cursor)),
}
