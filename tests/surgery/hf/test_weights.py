"""Files of weights that are written tensor by tensor, and models that are read layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgery.hf.lazy import LazyModel, LazyTensor
from surgery.hf.weights import write_weights
from tests.models import architecture, build


def test_a_file_has_the_bytes_of_safetensors_own(tmp_path: Path) -> None:
    state = {
        "b.weight": torch.randn(3, 5).to(torch.bfloat16),
        "a": torch.randn(7, dtype=torch.float16),
        "z.bias": torch.randn(4),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 3),
        "c": torch.randn(2, 2, dtype=torch.float64),
        "transposed": torch.randn(6, 4).T,
    }
    write_weights({name: LazyTensor.of(tensor) for name, tensor in state.items()}, tmp_path)
    whole = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(whole, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    ours = tmp_path / "model.safetensors"
    assert ours.read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(ours).items())


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("FWGSK", {"num_layers": 5, "num_kv_heads": 4, "mixers": {"W": {"window": 4}, "S": {"top_k": 3}}}),
        ("F", {"loops": 3, "tie_embeddings": True}),
    ],
)
def test_logits_layer_by_layer_are_the_models_own(layout: str, options: dict[str, Any]) -> None:
    model = build(architecture(layout, **options))
    ids = torch.randint(37, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.head(model(ids))
        assert torch.equal(LazyModel.of(model).logits(ids, torch.float32), expected)
        model.to(torch.bfloat16)
        expected = model.head(model(ids)).float()
        assert torch.equal(LazyModel.of(model).logits(ids, torch.bfloat16), expected)
