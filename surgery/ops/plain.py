"""Whether a module is no more than its class says: only then may its weights be used without calling it.

Adapters, quantisation, pruning, parametrizations, hooks and offloading all replace a module or what a call of
it does. Code that reads `module.weight` would pass by them without a word.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_OWN = (nn.Parameter, Tensor)  # any other class of tensor is a quantised or a sharded weight


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return True where a call of the module is `kind.forward` on ordinary parameters and nothing else."""
    return type(module) is kind and not is_hooked(module) and owns_weights(module)


def is_hooked(module: nn.Module) -> bool:
    """Return True where a call does more than `forward` of the module's class: with hooks of any kind, or a
    `forward` of the instance, by which accelerate brings in offloaded weights."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or torch_module._has_any_global_hook()
    )


def owns_weights(module: nn.Module) -> bool:
    """Return True where the module's own parameters are ordinary tensors."""
    return all(weight is None or type(weight) in _OWN for weight in module._parameters.values())
