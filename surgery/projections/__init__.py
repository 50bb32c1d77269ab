"""Registry of projection operators by name.

A new operator is a folder here (a spec without torch, a module with it) and a line below.
"""

from __future__ import annotations

from surgery.projections.base import ProjectionSpec
from surgery.projections.dense import DenseSpec
from surgery.projections.hdpl import HDPLSpec
from surgery.projections.low_rank import LowRankSpec

PROJECTION_OPERATORS: dict[str, ProjectionSpec] = {
    "dense": DenseSpec(),
    "hdpl": HDPLSpec(),
    "low_rank": LowRankSpec(),
}
