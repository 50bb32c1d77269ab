"""Search spaces: YAML files and their checks, sampled architectures, constraints, baselines and presets.

Imports neither torch nor optuna nor transformers: checking a space takes well under a second. It is
part of nas-cli.
"""

from __future__ import annotations

from search_spaces.baselines import BASELINES, Baseline
from search_spaces.catalog import Preset, list_presets, load_space, named_model, parse_space
from search_spaces.constraints import Constraint, Violation
from search_spaces.objectives import Objective
from search_spaces.proxy import Proxy
from search_spaces.space import SearchSpace, SpaceSize
from search_spaces.text import Data
from search_spaces.trial import RandomTrial, ReplayTrial, Trial

__all__ = [
    "BASELINES",
    "Baseline",
    "Constraint",
    "Data",
    "Objective",
    "Preset",
    "Proxy",
    "RandomTrial",
    "ReplayTrial",
    "SearchSpace",
    "SpaceSize",
    "Trial",
    "Violation",
    "list_presets",
    "load_space",
    "named_model",
    "parse_space",
]
