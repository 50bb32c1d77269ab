"""Small architectures, probes and spaces for the tests of both probes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from search_spaces.probes.recall import Recall
from search_spaces.probes.state import State
from studies.probes import accuracy, fresh_model
from surgery.architecture import Architecture
from tests.studies.conftest import SPACE

CPU = torch.device("cpu")
RECALL = Recall(pairs=4, seq_len=12, alphabet=8, steps=200, batch=16, lr=4e-3)
STATE = State(group="parity", length=4, steps=300, batch=32, lr=4e-3)
BACKBONE = {"vocab_size": 512, "dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 64}

SETTINGS = {
    "recall": "recall: {pairs: 2, seq_len: 8, alphabet: 4, steps: 12, batch: 8}",
    "state": "state: {length: 6, steps: 12, batch: 8}",
}


def architecture(**changes: Any) -> Architecture:
    return Architecture.from_dict({"backbone": {**BACKBONE, **changes}})


def space_with(*names: str) -> str:
    """SPACE with these probes as objectives, after its loss."""
    objectives = ", ".join(f"{name}: max" for name in names)
    settings = ", ".join(SETTINGS[name] for name in names)
    space = SPACE.replace("decode_flops@64: min", objectives)
    return space.replace("eval_tokens: 1024", f"eval_tokens: 1024, {settings}")


def untrained_accuracies(chosen: Recall | State) -> list[float]:
    """Accuracies of four models as they are initialised."""
    scores = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = fresh_model(architecture(), chosen)
        assert model.architecture.backbone.vocab_size == chosen.vocab_size
        scores.append(accuracy(model, chosen, np.random.default_rng(seed), CPU))
    return scores
