"""Makes transformers' Auto classes know our model, at no cost before they are used. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def register_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from surgery.hf.configuration import NasConfig

    AutoConfig.register(NasConfig.model_type, NasConfig, exist_ok=True)


def register_model() -> None:
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    from surgery.hf.configuration import NasConfig
    from surgery.hf.modeling import NasForCausalLM

    AutoModelForCausalLM.register(NasConfig, NasForCausalLM, exist_ok=True)


# The modules that hold the Auto classes. Whoever uses only the tokenizers never pays for the model's module.
_AFTER_IMPORT: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": register_config,
    "transformers.models.auto.modeling_auto": register_model,
}


class _AfterImport(MetaPathFinder):
    """Runs an action once a module has been imported; the finding is left to the other finders."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        action = _AFTER_IMPORT.get(name)
        if action is None:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                _run_after(spec.loader, action)
                return spec
        return None


def _run_after(loader: Any, action: Callable[[], None]) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        action()

    loader.exec_module = exec_module  # on this loader of this one module, not on its class


def install() -> None:
    """Registers now what transformers has already imported, and the rest when it is."""
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    for name, action in _AFTER_IMPORT.items():
        if name in sys.modules:
            action()
