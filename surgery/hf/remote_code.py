"""Export of the model's source next to its weights, for `trust_remote_code=True` without this package.

One generated file holds every module that the model needs as text, and imports them from there. Inside it the
modules are flat, with imports of this package made relative. Every line of them begins with `|`, so that
transformers, which looks for imports line by line, does not take their imports for the file's own.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = "surgery"
FILE = "modeling_nas.py"
_LOADER = "surgery.hf.bundle"  # the beginning of the file
_MARK = "MODULES: dict[str, str] = {}\n"  # of its line that the modules replace
_ROOTS = {
    "surgery.hf.configuration": "configuration_nas",
    "surgery.hf.modeling": "modeling_nas",
}
_STAND_INS = {"jaxtyping": "surgery.hf.shapes"}  # so that transformers does not require these packages
_IMPORT = re.compile(r"^(\s*)from\s+([\w.]+)\s+import\b", re.MULTILINE)


def write_remote_code(folder: str | os.PathLike[str]) -> Path:
    """Write the file into `folder`; returns its path."""
    path = Path(folder) / FILE
    path.write_text(bundle(), encoding="utf-8")
    return path


@cache
def bundle() -> str:
    """Return the text of the file; the same modules always give the same text."""
    lines = ["MODULES: dict[str, str] = {"]
    for name, text in sources().items():
        assert "'''" not in text, f"{name}: the text stands between triple quotes"
        marked = "\n".join(f"|{line}" for line in text.splitlines())
        lines += [f"    \"{name}\": r'''", marked, "''',"]
    loader = _read(_LOADER)
    assert loader.count(_MARK) == 1
    return loader.replace(_MARK, "\n".join([*lines, "}"]) + "\n")


@cache
def sources() -> dict[str, str]:
    """Return the source of every module that the model and its config need, by flat name without suffix."""
    texts: dict[str, str] = {}
    waiting = list(_ROOTS)
    while waiting:
        module = waiting.pop()
        if module in texts:
            continue
        texts[module] = _read(module)
        waiting.extend(_needed(module, texts[module]))
    return {_flat(module): _relative(text) for module, text in sorted(texts.items())}


def _read(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    return Path(spec.origin).read_text(encoding="utf-8")


def _needed(module: str, text: str) -> Iterator[str]:
    """Yield the modules of this package, and the stand-ins, that the text imports at any level."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == _PACKAGE]
            assert not names, (
                f"{module}: write 'from {names[0]} import ...', the export can't follow 'import'"
            )
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            assert node.module != _PACKAGE, f"{module}: import from the module itself, not from {_PACKAGE}"
            if node.module in _STAND_INS:
                yield _STAND_INS[node.module]
            elif node.module.startswith(f"{_PACKAGE}."):
                yield node.module


def _flat(module: str) -> str:
    return _ROOTS.get(module, module.replace(".", "_"))


def _relative(text: str) -> str:
    def rewrite(match: re.Match[str]) -> str:
        indent, module = match.groups()
        module = _STAND_INS.get(module, module)
        if not module.startswith(f"{_PACKAGE}."):
            return match.group()
        return f"{indent}from .{_flat(module)} import"

    return _IMPORT.sub(rewrite, text)
