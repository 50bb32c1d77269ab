"""Model code of `nas`, for `trust_remote_code=True`: transformers needs no other file to run this model.

MODULES holds the modules of the package that wrote the model, unchanged but for their imports; `|` begins
their lines. They are imported as a package of their own, whose name depends on their text.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib import import_module
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

MODULES: dict[str, str] = {}

_PACKAGE = f"nas_bundle_{hashlib.sha256(repr(MODULES).encode()).hexdigest()[:16]}"


class _Bundle(MetaPathFinder, ExecutionLoader):
    """Finder and loader of the package and its modules."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of the package or of one of its modules."""
        if name == _PACKAGE:
            return spec_from_loader(name, self, is_package=True)
        package, _, module = name.partition(".")
        return spec_from_loader(name, self) if package == _PACKAGE and module in MODULES else None

    def is_package(self, name: str) -> bool:
        """Return whether the name is the package's own."""
        return name == _PACKAGE

    def get_source(self, name: str) -> str:
        """Return a module's text, which tracebacks and Triton read too."""
        text = MODULES.get(name.rpartition(".")[2], "")
        return "\n".join(line.removeprefix("|") for line in text.splitlines()[1:]) + "\n"

    def get_filename(self, name: str) -> str:
        """Return a name for tracebacks; there is no such file."""
        return os.path.join(os.path.dirname(__file__), _PACKAGE, f"{name.rpartition('.')[2]}.py")


if MODULES:  # else this is the package's own copy of the loader
    if _PACKAGE not in sys.modules:
        sys.meta_path.insert(0, _Bundle())
    NasConfig = import_module(f"{_PACKAGE}.configuration_nas").NasConfig
    NasForCausalLM = import_module(f"{_PACKAGE}.modeling_nas").NasForCausalLM
    # transformers saves the file of a class's module beside the weights
    NasConfig.__module__ = NasForCausalLM.__module__ = __name__
