"""Models whose layers differ in their parts and sizes, as Hugging Face folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surgery.apply.verify import verify
from surgery.architecture import Architecture
from surgery.config.problems import UserError
from surgery.config.yaml_source import load_yaml
from surgery.hf.configuration import NasConfig
from surgery.hf.export import save
from surgery.hf.lazy import LazyModel
from tests.models import architecture, build


def different_layers() -> Architecture:
    return architecture(
        "FWNF", num_layers=4,
        mixers={"F": [{"layers": 3, "kv_heads": 1}], "W": [{"layers": 1, "window": 5, "kv_heads": 4}]},
        ffn=[{"layers": "1-2", "dim": 12}, {"layers": -1, "dim": 0}],
    )  # fmt: skip


@pytest.mark.slow
def test_it_loads_and_generates_with_the_source_in_the_folder_alone(tmp_path: Path) -> None:
    """In a process that can't import this package; prompts are longer than the window."""
    model = build(different_layers(), spread=0.3)
    save(model, tmp_path / "out")
    result = verify(tmp_path / "out", LazyModel.of(model), remote_code=True)
    assert result.passed
    assert result.remote_code
    written = Architecture.from_dict(load_yaml(tmp_path / "out" / "architecture.yaml").data)
    assert written.to_dict() == model.architecture.to_dict()


def test_it_loads_with_the_package(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = build(different_layers(), spread=0.3)
    save(model, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.randint(37, (2, 12))
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model.head(model(tokens)))
    assert loaded.config.build_architecture() == model.architecture
    loaded.resize_token_embeddings(40)
    assert loaded.config.build_architecture().layers[3].ffn_dim == 0


def test_sizes_of_layers_have_one_source() -> None:
    data = different_layers().to_dict()
    with pytest.raises(UserError, match="must be left out: the field `architecture` has the sizes"):
        NasConfig(data, per_layer_config={1: {"intermediate_size": 12}})
    assert NasConfig(data, per_layer_config=None).build_architecture() == different_layers()
