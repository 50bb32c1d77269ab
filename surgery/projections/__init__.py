"""Projection operators by name. A new one is a folder here (spec without torch, module with) and a line."""

from __future__ import annotations

from surgery.projections.base import ProjectionSpec
from surgery.projections.dense import DenseSpec
from surgery.projections.hdpl import HDPLSpec

PROJECTION_OPERATORS: dict[str, ProjectionSpec] = {
    "dense": DenseSpec(),
    "hdpl": HDPLSpec(),
}
