"""Checks that a module has no modifications, so that its weights may be used without calling it.

Adapters, quantisation, pruning, parametrizations, hooks and offloading replace a module or change the effect
of calling it. Code that reads `module.weight` would silently ignore them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_OWN = (nn.Parameter, Tensor)  # any other class of tensor is a quantised or a sharded weight


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether calling the module is exactly `kind.forward` on ordinary parameters."""
    return type(module) is kind and not is_hooked(module) and owns_weights(module)


def is_hooked(module: nn.Module) -> bool:
    """Return whether calling the module does more than its class's `forward`.

    That is the case with hooks of any kind, or a `forward` on the instance, with which accelerate loads
    offloaded weights.
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or torch_module._has_any_global_hook()
    )


def owns_weights(module: nn.Module) -> bool:
    """Return whether the module's own parameters are ordinary tensors."""
    return all(weight is None or type(weight) in _OWN for weight in module._parameters.values())
