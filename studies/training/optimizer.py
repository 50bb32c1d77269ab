"""The optimizer of a model: AdamW, or Muon for matrices; one learning rate per kind of parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from studies.training.joined import Joined
from studies.training.muon import Muon
from studies.training.settings import TrainSettings

# ratio of the learning rate of embeddings and vectors to that of matrices, by the rules `roles` and `width`
EMBEDDING_RATE = 6.0


def make_optimizer(
    model: nn.Module,
    settings: TrainSettings,
    device: torch.device,
    scales: Mapping[str, float] | None = None,
) -> torch.optim.AdamW | Joined:
    """Return AdamW with weight decay on matrices only, not on norms, biases, embeddings and gates.

    With `settings.optimizer` "muon" the matrices of layers are Muon's, see `is_hidden_matrix`; all else, the
    head included, stays AdamW's. Updates of both have entries of the same size, so rates, their rules and
    weight decays are the same for both.

    A group's `scale` multiplies the learning rate. By the rule `uniform` it is 1. By `roles` it is
    EMBEDDING_RATE for embeddings (with a tied head or without), norms, biases and gates: muP and related
    methods give larger rates to parameters that do not grow with the width (arXiv 2203.03466, table 8;
    2407.05872). Looped matrices have no rate of their own: lr / iterations was better after 100 steps, but
    equal (3 iterations) or worse (2 iterations) after 400. By `width` the matrices inside of operators
    additionally have the scales of their module's `rates`.

    Args:
        model: the model in training; parameters that need no gradients are left out.
        settings: of the optimizer.
        device: the model's device.
        scales: more factors of the learning rate, by parameter name; 1 for those that are missing.
    """
    scales = scales or {}
    groups: dict[str, dict[tuple[float, float], list[nn.Parameter]]] = {"adamw": {}, "muon": {}}
    exempt = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    roles = settings.lr_rule != "uniform"
    rates = _own_rates(model) if settings.lr_rule == "width" else {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim >= 2 and id(parameter) not in exempt and not name.endswith("loop_gate")
        scale = rates.get(name, 1.0) if matrix or not roles else EMBEDDING_RATE
        scale *= scales.get(name, 1.0)
        part = "muon" if settings.optimizer == "muon" and is_hidden_matrix(name, parameter) else "adamw"
        groups[part].setdefault((settings.weight_decay if matrix else 0.0, scale), []).append(parameter)
    parts = {
        part: [
            {"params": parameters, "weight_decay": decay, "scale": scale}
            for (decay, scale), parameters in sorted(groups[part].items(), reverse=True)
        ]
        for part in groups
    }
    if settings.optimizer != "muon":
        return _adamw(parts["adamw"], settings, device)
    optimizers: dict[str, torch.optim.Optimizer] = {}
    if parts["adamw"]:
        optimizers["adamw"] = _adamw(parts["adamw"], settings, device)
    if parts["muon"]:
        optimizers["muon"] = Muon(parts["muon"], lr=settings.lr)
    return Joined(optimizers)


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether Muon trains a parameter: a matrix in a layer, or matrices along the first dimension.

    Each projection is a matrix of its own (q, k and v, gate and up are separate), with all heads in it. The
    blocks of HDPL (blocks, out, in) are several. Filters of convolutions (channels, 1, width) and maps to a
    single number have one row, which is a vector: orthogonalised it would only be normed.
    """
    return name.startswith("layers.") and parameter.ndim >= 2 and min(parameter.shape[-2:]) > 1


def _adamw(groups: list[dict[str, Any]], settings: TrainSettings, device: torch.device) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=settings.betas, fused=device.type in ("cpu", "cuda"),
        capturable=device.type == "cuda",
    )  # fmt: skip


def _own_rates(model: nn.Module) -> dict[str, float]:
    """Return the learning-rate scales, by parameter name, of modules that have `rates`."""
    return {
        f"{name}.{own}": rate
        for name, module in model.named_modules()
        for own, rate in getattr(module, "rates", {}).items()
    }
