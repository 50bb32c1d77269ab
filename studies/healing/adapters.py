"""Low-rank healing: adapters of PEFT on the carried projections, merged into them afterwards.

W + (alpha / r) B A with A and B of rank r (LoRA, arXiv 2106.09685); B starts at zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import torch

from surgery.config.problems import Problem, UserError
from surgery.model import HybridLM
from surgery.projections.dense.module import Dense

ALPHA = 2.0  # of a rank: adapters then take rates of the size that whole matrices take
BASE, ADAPTER = ".base_layer.", ".lora_"  # in the names of parameters, PEFT's choice


def check_peft(rank: int) -> None:
    """Check that PEFT is installed.

    Raises:
        UserError: it is not.
    """
    if find_spec("peft") is None:
        problem = Problem("--lora", rank, "needs PEFT, which is not installed", "pip install 'nas-cli[lora]'")
        raise UserError("can't add adapters", [problem])


def add_adapters(model: HybridLM, new: Iterable[str], rank: int, seed: int) -> None:
    """Wrap every dense projection that is the original's.

    Args:
        model: the rewritten model, in float32.
        new: names of the tensors that are not the original's.
        rank: of the adapters.
        seed: of their weights.
    """
    from peft import LoraConfig, inject_adapter_in_model

    fresh = set(new)
    carried = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Dense) and name.startswith("layers.") and f"{name}.weight" not in fresh
    ]
    if not carried:
        rule = "has no effect: no dense projection is the original's"
        raise UserError("can't add adapters", [Problem("--lora", rank, rule)])
    torch.manual_seed(seed)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=int(ALPHA * rank), target_modules=carried), model)


def merge_adapters(model: HybridLM) -> None:
    """Add the adapters to the weights that they wrap, and remove them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in wrapped:
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())


def plain_name(name: str) -> str:
    """Return the name that a wrapped parameter has without its adapter."""
    return name.replace(BASE, ".")


def adapted_name(name: str) -> str | None:
    """Return the plain name of the weight that an adapter's parameter is added to; None for all others."""
    wrapped, is_adapter, _ = name.partition(ADAPTER)
    return f"{wrapped}.weight" if is_adapter else None
