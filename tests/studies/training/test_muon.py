"""Muon against torch's own, and what it orthogonalises against singular value decompositions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from studies.training import muon as module
from studies.training.muon import RMS, Muon, orthogonalised
from studies.training.optimizer import EMBEDDING_RATE, is_hidden_matrix, make_optimizer
from studies.training.settings import TrainSettings
from surgery.architecture import Architecture
from surgery.architecture.memory import training_bytes
from surgery.model import HybridLM

CPU = torch.device("cpu")
SETTINGS = TrainSettings(tokens=8192, seq_len=32, batch_tokens=512, optimizer="muon", lr_rule="roles")
BACKBONE = {"vocab_size": 512, "dim": 16, "num_layers": 3, "num_heads": 2, "ffn_dim": 32}
HDPL = {"match": ["q", "gate"], "operator": "hdpl", "blocks": 2, "rank": 4, "kl": "mean"}
SHAPES = [(16, 16), (24, 8), (8, 24), (16, 16), (24, 8)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (16, 48), (96, 256)])
def test_matrices_become_nearly_orthogonal(rows: int, columns: int) -> None:
    """U S V^T keeps U and V; its singular values but the smallest come near 1."""
    matrices = random(4, rows, columns)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    result = u.mT @ orthogonalised(matrices) @ vh.mT
    values = result.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(result, torch.diag_embed(values), atol=1e-4)
    large = s > 0.002 * torch.linalg.matrix_norm(matrices)[:, None]
    assert large.float().mean() > 0.9
    assert values[large].min() > 0.68
    assert values.max() < 1.21


def test_zeros_stay_zeros_and_scale_does_not_matter() -> None:
    matrices = random(2, 8, 24)
    assert torch.equal(orthogonalised(torch.zeros(2, 8, 24)), torch.zeros(2, 8, 24))
    assert torch.allclose(orthogonalised(1e-3 * matrices), orthogonalised(matrices), atol=1e-5)


@pytest.mark.parametrize("most", [module.MOST_ELEMENTS, 1])
def test_steps_are_those_of_torch(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """To rounding of float32, in which torch's works here too; in batches or one by one."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    monkeypatch.setattr(module, "MOST_ELEMENTS", most)
    ours, theirs = ([random(*shape, seed=n) for n, shape in enumerate(SHAPES)] for _ in range(2))
    rates = {"lr": 0.02, "weight_decay": 0.1}
    mine = Muon(ours, **rates)
    reference = torch.optim.Muon(theirs, **rates, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        for n, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = random(*one.shape, seed=100 + 10 * step + n)
            other.grad = one.grad.clone()
        mine.step()
        reference.step()
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one, other, atol=2e-6, rtol=2e-6), step


def test_blocks_are_matrices_of_their_own() -> None:
    blocks = random(3, 8, 6)
    alone = [blocks[n].clone() for n in range(3)]
    blocks.grad = random(3, 8, 6, seed=1)
    for n, block in enumerate(alone):
        block.grad = blocks.grad[n].clone()
    for parameters in ([blocks], alone):
        Muon(parameters, lr=0.1).step()
    assert torch.allclose(blocks, torch.stack(alone), atol=1e-6)


def test_updates_have_the_size_of_adamws() -> None:
    """The root mean square of an entry is RMS times the rate, whatever the shape."""
    for shape in ((32, 32), (16, 128), (128, 16), (4, 16, 32)):
        parameter = torch.zeros(shape)
        parameter.grad = random(*shape)
        Muon([parameter], lr=1.0, weight_decay=0.0).step()
        assert parameter.square().mean().sqrt() == pytest.approx(RMS, rel=0.2), shape


def test_parameters_without_gradients_stay() -> None:
    parameters = [random(8, 8, seed=n) for n in range(2)]
    before = [parameter.clone() for parameter in parameters]
    parameters[1].grad = random(8, 8)
    optimizer = Muon(parameters)
    optimizer.step()
    assert torch.equal(parameters[0], before[0])
    assert not torch.equal(parameters[1], before[1])
    assert len(optimizer.state) == 1


class _NoReading(TorchDispatchMode):
    """Refuses to read a number from a tensor, for which the host would wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "waits for the device"
        return func(*args, **kwargs or {})


def test_a_rate_on_the_device_is_never_read() -> None:
    """A CUDA graph requires it. The rate is a tensor, whose new value takes effect."""
    rate = torch.tensor(0.0)
    parameters = [random(*shape, seed=n) for n, shape in enumerate([*SHAPES, (2, 8, 4)])]
    before = [parameter.clone() for parameter in parameters]
    optimizer = Muon(parameters)
    optimizer.param_groups[0]["lr"] = rate
    for value in (0.0, 0.1):
        rate.fill_(value)
        for n, parameter in enumerate(parameters):
            parameter.grad = random(*parameter.shape, seed=10 + n)
        with _NoReading():
            optimizer.step()
        moved = [not torch.equal(now, then) for now, then in zip(parameters, before, strict=True)]
        assert all(moved) if value else not any(moved)


def model_of(**changes: Any) -> HybridLM:
    torch.manual_seed(0)
    given = {"backbone": BACKBONE, "layout": "FGS", "projections": [HDPL], "loop": {"count": 2}, **changes}
    return HybridLM(Architecture.from_dict(given))


def trained_by(model: HybridLM, settings: TrainSettings) -> dict[str, set[str]]:
    """Names of parameters by the optimizer that trains them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parts: dict[str, set[str]] = {}
    for part, optimizer in make_optimizer(model, settings, CPU).parts.items():  # type: ignore[union-attr]
        parts[part] = {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
    return parts


@pytest.mark.parametrize("tied", [True, False])
def test_muon_has_the_matrices_of_layers_and_adamw_all_else(tied: bool) -> None:
    backbone = {**BACKBONE, "qk_norm": True, "biases": ["q", "k", "v"], "tie_embeddings": tied}
    model = model_of(backbone=backbone)
    parts = trained_by(model, SETTINGS)
    names = {name for name, _ in model.named_parameters()}
    assert parts["adamw"] | parts["muon"] == names
    assert not parts["adamw"] & parts["muon"]
    endings = ("norm.weight", ".bias", ".conv", "A_log", "dt_bias")
    vectors = {name for name in names if name.endswith(endings)}
    assert {name.rpartition(".")[2] for name in vectors} >= {"weight", "bias", "conv", "A_log", "dt_bias"}
    assert parts["adamw"] == vectors | ({"embed.weight", "head.weight", "loop_gate"} & names)
    assert any(name.endswith(".q.blocks") for name in parts["muon"])


def test_rules_and_scales_multiply_the_rates_of_both() -> None:
    model = model_of()
    scaled = {"layers.0.mixer.k.weight": 4.0, "layers.0.mixer_norm.weight": 2.0}
    optimizer = make_optimizer(model, replace(SETTINGS, lr_rule="width"), CPU, scaled)
    scales = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    scale = {name: scales[id(parameter)] for name, parameter in model.named_parameters()}
    assert scale["layers.0.mixer.k.weight"] == 4.0
    assert scale["layers.0.mixer.v.weight"] == scale["head.weight"] == 1.0
    assert scale["embed.weight"] == EMBEDDING_RATE
    assert scale["layers.0.mixer_norm.weight"] == 2 * EMBEDDING_RATE
    assert scale["layers.0.mixer.q.blocks"] == pytest.approx(2 ** (2 / 3))
    decays = {group["weight_decay"] for group in optimizer.parts["muon"].param_groups}  # type: ignore[union-attr]
    assert decays == {SETTINGS.weight_decay}


@contextmanager
def frozen(model: HybridLM, matrices: bool) -> Iterator[None]:
    """Train only the matrices of layers, or all but them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_hidden_matrix(name, parameter) == matrices)
    yield
    model.requires_grad_(True)


def test_a_part_without_parameters_is_left_out() -> None:
    model = model_of()
    for matrices, part in ((True, "muon"), (False, "adamw")):
        with frozen(model, matrices):
            assert trained_by(model, SETTINGS).keys() == {part}


def test_memory_counts_the_averages_that_there_are() -> None:
    """Weights, gradients and averages; vectors in layers count as matrices, so that it is a lower bound."""
    for optimizer in ("adamw", "muon"):
        model = model_of(layout="FFF", loop={"count": 1}, projections=[])
        made = make_optimizer(model, replace(SETTINGS, optimizer=optimizer), CPU)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        made.step()
        parts = getattr(made, "parts", {"": made}).values()
        state = [value for part in parts for entry in part.state.values() for value in entry.values()]
        held = sum(value.nbytes for value in state if value.ndim)
        held += 2 * sum(parameter.nbytes for parameter in model.parameters())
        vectors = sum(p.nbytes for n, p in model.named_parameters() if "norm" in n)
        expected = training_bytes(model.architecture, optimizer)
        assert held == expected + (vectors if optimizer == "muon" else 0)
