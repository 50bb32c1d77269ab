"""Lazy registration of the model with transformers' Auto classes. Standard library only at import."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def register_config() -> None:
    """Register `NasConfig` with AutoConfig."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from surgery.hf.configuration import NasConfig

    AutoConfig.register(NasConfig.model_type, NasConfig, exist_ok=True)


def register_model() -> None:
    """Register `NasForCausalLM` with AutoModelForCausalLM."""
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    from surgery.hf.configuration import NasConfig
    from surgery.hf.modeling import NasForCausalLM

    AutoModelForCausalLM.register(NasConfig, NasForCausalLM, exist_ok=True)


# Modules of the Auto classes. A process that uses only tokenizers never imports the model's module.
_AFTER_IMPORT: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": register_config,
    "transformers.models.auto.modeling_auto": register_model,
}


class _AfterImport(MetaPathFinder):
    """Meta path finder that runs an action after a module's import; other finders locate the module."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the other finders' spec of a watched module, with the action attached to its loader."""
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

    loader.exec_module = exec_module  # on this module's loader, not on its class


def install() -> None:
    """Register with the Auto classes that are already imported, and with the others on their import."""
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    for name, action in _AFTER_IMPORT.items():
        if name in sys.modules:
            action()
