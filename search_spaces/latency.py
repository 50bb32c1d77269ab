"""Settings of measured latency: how the blocks of a space's architectures are timed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from surgery.config.options import Cursor, Option, read_options

OPTIONS = {"batch": Option(int, 1, low=1, help="sequences that are decoded or prefilled together")}


@dataclass(frozen=True)
class LatencySettings:
    """Settings of `decode_ms` and `prefill_ms`.

    Attributes:
        batch: sequences that are decoded or prefilled together.
    """

    batch: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return all settings."""
        return asdict(self)


def read_latency(data: object, cursor: Cursor) -> LatencySettings:
    """Read the `latency` section, filling in defaults; errors are added as problems."""
    before = len(cursor.problems.entries)
    values = read_options(data, OPTIONS, cursor)
    return LatencySettings(**values) if len(cursor.problems.entries) == before else LatencySettings()
