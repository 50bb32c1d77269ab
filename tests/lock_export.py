"""A small export made with the versions of requirements.lock, and what it must generate under every version.

`python -m tests.lock_export` makes tests/data/lock_export anew: every mixer, HDPL, a loop, tied embeddings
and random weights. It is needed only where the format of exports changes. The source that `trust_remote_code`
runs is not kept: it is the package's own, written beside the weights by the test.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from surgery.hf.export import save
from surgery.hf.remote_code import FILE
from tests.models import architecture, build

FOLDER = Path(__file__).parent / "data" / "lock_export"
EXPECTED = "expected.json"
PROMPTS = [[3, 14, 15, 9, 26, 5, 35, 8], [2, 7, 18, 28, 18, 28, 4, 5]]
NEW_TOKENS = 16
MARGIN = 0.02  # logits between the first and the second choice: more than versions and machines differ by


def settings(prompts: torch.Tensor) -> dict[str, Any]:
    """Greedy, of a fixed length."""
    mask = torch.ones_like(prompts)
    return {
        "max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0,
        "attention_mask": mask,
    }  # fmt: skip


def make(folder: Path) -> None:
    projections = [{"match": ["q", "gate", "up"], "operator": "hdpl", "blocks": 2, "rank": 6}]
    sparse = {"S": {"top_k": 6}, "W": {"window": 5}}
    arch = architecture(
        "FGWSK", num_layers=5, projections=projections, mixers=sparse, loops=2, tie_embeddings=True
    )
    for seed in range(1000):
        torch.manual_seed(seed)
        model = build(arch)
        ids = torch.tensor(PROMPTS)
        smallest = float("inf")
        with torch.no_grad():
            for _ in range(NEW_TOKENS):
                best = model.head(model(ids))[:, -1].topk(2)
                smallest = min(smallest, float((best.values[:, 0] - best.values[:, 1]).min()))
                ids = torch.cat([ids, best.indices[:, :1]], 1)
            logits = model.head(model(ids))[:, -1]
        if smallest > MARGIN and len(set(ids[:, len(PROMPTS[0]) :].flatten().tolist())) > 6:
            break
    save(model, folder, overwrite=folder.exists())
    for name in ("README.md", FILE):
        (folder / name).unlink()
    expected = {
        "made_with": {name: version(name) for name in ("torch", "transformers", "safetensors", "numpy")},
        "ids": ids.tolist(),
        "last_logits": logits.tolist(),
    }
    (folder / EXPECTED).write_text(json.dumps(expected) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(FOLDER)
