"""Adapters: written, read, and refused where they do not belong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgery.config.problems import UserError
from surgery.hf.configuration import NasConfig
from surgery.hf.modeling import NasForCausalLM
from surgery.latents import Adapter, Steering, load_adapter, steered
from surgery.latents.adapter import CONFIG, WEIGHTS, hash_weights
from surgery.latents.projections import Latent
from surgery.model import HybridLM
from tests.models import architecture, build

RULE = {"match": ["q", "gate"], "operator": "hdpl", "blocks": 2, "rank": 4}


@pytest.fixture
def model() -> HybridLM:
    torch.manual_seed(0)
    return build(architecture("FF", projections=[RULE], tie_embeddings=True))


@pytest.fixture
def adapter(model: HybridLM) -> Adapter:
    offsets = {Latent(1, "gate"): torch.randn(4), Latent(0, "q"): torch.randn(4)}
    return Adapter(offsets, "micro", hash_weights(model), {"by": "hand"})


def test_it_is_read_as_it_was_written(model: HybridLM, adapter: Adapter, tmp_path: Path) -> None:
    again = load_adapter(adapter.save(tmp_path / "adapter"))
    assert again.parameters == 8
    assert (again.base, again.base_hash, again.made) == ("micro", adapter.base_hash, {"by": "hand"})
    assert again.offsets.keys() == adapter.offsets.keys()
    assert all(torch.equal(again.offsets[name], offset) for name, offset in adapter.offsets.items())
    assert list(load_file(tmp_path / "adapter" / WEIGHTS)) == ["layers.0.q", "layers.1.gate"]
    tokens = torch.randint(0, 37, (1, 30))
    with steered(model, Steering.of(again)):
        result = model(tokens)
    with torch.no_grad():
        model.layers[0].mixer.q.mu.bias += adapter.offsets[Latent(0, "q")]
        model.layers[1].ffn.gate.mu.bias += adapter.offsets[Latent(1, "gate")]
    torch.testing.assert_close(result, model(tokens), rtol=1e-4, atol=1e-5)


def test_the_hash_is_of_the_weights_alone(model: HybridLM, adapter: Adapter) -> None:
    known = hash_weights(model)
    assert hash_weights(NasForCausalLM.wrap(model, NasConfig(model.architecture.to_dict()))) == known
    assert hash_weights(torch.compile(model, backend="eager")) == known
    with steered(model, Steering.of(adapter)):
        assert hash_weights(model) == known
    halved = build(model.architecture).bfloat16()
    assert hash_weights(halved) == hash_weights(halved.float())  # loaded in a longer dtype
    with torch.no_grad():
        model.norm.weight[3] += 1e-6
    assert hash_weights(model) != known


def test_another_model_is_refused(model: HybridLM, adapter: Adapter) -> None:
    with torch.no_grad():
        model.layers[0].mixer.k.weight[0, 0] += 1
    with pytest.raises(UserError, match="was made for another model"), steered(model, Steering.of(adapter)):
        pass


def test_a_folder_that_is_not_empty_is_left_alone(adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        adapter.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_damaged_folders(adapter: Adapter, tmp_path: Path) -> None:
    folder = adapter.save(tmp_path / "adapter")

    def rules() -> list[str]:
        with pytest.raises(UserError) as error:
            load_adapter(folder)
        return [f"{item.field}: {item.rule}" for item in error.value.problems]

    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "base_model_hash": 3, "ranks": {"layers.0.q": 4}}))
    save_file({"layers.0.q": torch.ones(2, 2), "lora_A": torch.ones(2)}, folder / WEIGHTS)
    assert rules() == [
        f"{CONFIG}: base_model_hash: must be text",
        f"{WEIGHTS}: layers.0.q: must be a vector of finite numbers",
        f"{WEIGHTS}: lora_A: is not a projection such as layers.0.gate",
    ]
    (folder / CONFIG).write_text(json.dumps(config))
    save_file({"layers.0.q": torch.ones(4)}, folder / WEIGHTS)
    assert rules() == [f"ranks: layers.1.gate: {CONFIG} has 4, {WEIGHTS} none"]
    (folder / WEIGHTS).write_bytes(b"nothing")
    assert len(rules()) == 1
    (folder / CONFIG).write_text(json.dumps({**config, "peft_type": "LORA"}))
    assert rules() == [f"{CONFIG}: peft_type: must be LATENT_OFFSETS"]
    (folder / CONFIG).unlink()
    assert len(rules()) == 2
