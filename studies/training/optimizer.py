"""AdamW with one learning rate per kind of parameter."""

from __future__ import annotations

import torch
from torch import nn

from studies.training.settings import TrainSettings

# by the rules `roles` and `width`: the learning rate of embeddings and vectors over that of matrices
EMBEDDING_RATE = 6.0


def make_optimizer(model: nn.Module, settings: TrainSettings, device: torch.device) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on norms, biases, embeddings and gates.

    A group's `scale` is its share of the learning rate. By the rule `uniform` it is 1. By `roles` embeddings,
    tied head or not, norms, biases and gates have EMBEDDING_RATE: muP and its kin let what does not grow with
    the width move faster than matrices (arXiv 2203.03466, table 8; 2407.05872). Looped matrices have no rate
    of their own: lr / passes was ahead after 100 steps, but even after 400 (3 passes) or behind (2 passes).
    By `width` maps inside of operators have what their `rates` say, beside that.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    exempt = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    roles = settings.lr_rule != "uniform"
    rates = _own_rates(model) if settings.lr_rule == "width" else {}
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and id(parameter) not in exempt and not name.endswith("loop_gate")
        scale = rates.get(name, 1.0) if matrix or not roles else EMBEDDING_RATE
        groups.setdefault((settings.weight_decay if matrix else 0.0, scale), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "scale": scale}
            for (decay, scale), parameters in sorted(groups.items(), reverse=True)
        ],
        lr=settings.lr, betas=settings.betas, fused=device.type in ("cpu", "cuda"),
        capturable=device.type == "cuda",
    )  # fmt: skip


def _own_rates(model: nn.Module) -> dict[str, float]:
    """Of the parameters, by name, of modules that have `rates`."""
    return {
        f"{name}.{own}": rate
        for name, module in model.named_modules()
        for own, rate in getattr(module, "rates", {}).items()
    }
