"""Every named design learns, is exported, comes back in a fresh process and generates with its cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from search_spaces import BASELINES, load_space
from surgery.hf.export import save
from surgery.model import HybridLM
from tests.strategies import read_backbone
from tests.surgery.hf.test_autoload import fresh

BACKBONE = {
    "vocab_size": 64, "dim": 32, "num_layers": 5, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
    "ffn_dim": 48,
}  # fmt: skip

RELOAD = """
import json, pathlib, torch, surgery
from transformers import AutoModelForCausalLM
found = {}
for folder in sorted(pathlib.Path(FOLDER).iterdir()):
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(1, 25).view(2, 12)
    settings = dict(max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0)
    settings["attention_mask"] = torch.ones_like(ids)
    cached, plain = model.generate(ids, **settings), model.generate(ids, use_cache=False, **settings)
    with torch.no_grad():
        found[folder.name] = [torch.equal(cached, plain), float(model(ids).logits.square().sum())]
print(json.dumps(found))
"""


def learn(model: HybridLM) -> tuple[float, float]:
    """Loss before and after a few steps on one batch."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens = torch.randint(64, (4, 25), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(12):
        loss, auxiliary = model.loss(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        (loss + auxiliary).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


IN_PRESETS = [name for name in load_space("hybrid").baselines if name in BASELINES]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(IN_PRESETS, id="of the presets"),
        pytest.param(
            [name for name in BASELINES if name not in IN_PRESETS], id="others", marks=pytest.mark.slow
        ),
    ],
)
def test_baselines_train_and_come_back(tmp_path: Path, names: list[str]) -> None:
    expected = {}
    ids = torch.arange(1, 25).view(2, 12)
    for name in names:
        torch.manual_seed(0)
        model = HybridLM(BASELINES[name].build(read_backbone(BACKBONE)))
        first, last = learn(model)
        assert last < first - 0.3, name
        model.eval()
        with torch.no_grad():
            expected[name] = float(model.head(model(ids)).square().sum())
        save(model, tmp_path / "models" / name)
    data = json.loads(fresh(f"FOLDER = {str(tmp_path / 'models')!r}{RELOAD}", cwd=tmp_path))
    assert data.keys() == expected.keys()
    for name, (same, total) in data.items():
        assert same, f"{name}: another text with the cache"
        assert total == pytest.approx(expected[name], rel=1e-4), name
