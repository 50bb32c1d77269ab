"""The values of options that name one of a few things. Typer lists them in the help, completes them in the
shell and refuses others before anything is loaded; a test keeps them those of the registries.
"""

from __future__ import annotations

from typing import Literal

Sampler = Literal["gain", "milp", "tpe", "nsga2", "nsga3", "gp", "random"]
Stopping = Literal["forecast", "pareto", "median", "none"]
Optimizer = Literal["adamw", "muon"]
LrRule = Literal["roles", "width", "uniform"]
Fold = Literal["average", "first"]
HealLoss = Literal["both", "ce", "kl"]
ProbeName = Literal["recall", "state"]
GroupName = Literal["parity", "s3", "s4", "a5", "s5"]
KlForm = Literal["reference", "mean", "free_bits"]
SpaceSize = Literal["laptop", "gpu"]
