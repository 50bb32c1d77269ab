"""Files that nas writes into a model's folder, and detection of other files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "tekken.json", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
# besides Python files
_WRITTEN = (
    *TOKENIZER_FILES, "additional_chat_templates", "config.json", "generation_config.json", "README.md",
    "architecture.yaml", "model.safetensors.index.json", "training.json", "curve.jsonl", "__pycache__",
)  # fmt: skip
_NUMBERED = re.compile(r"model(-\d+-of-\d+)?\.safetensors|(configuration_nas|modeling_nas|surgery_\w+)\.py")


def foreign(path: Path) -> str:
    """Describe the contents of a model's folder that nas did not write; empty if there are none."""
    from surgery.hf.configuration import MODEL_TYPE  # loads transformers, which most refusals need not

    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        config = None
    kind = config.get("model_type") if isinstance(config, dict) else None
    # a class of transformers, written by `nas apply`
    stock = (path / "architecture.yaml").is_file() and not (path / "modeling_nas.py").exists()
    if kind != MODEL_TYPE and not (stock and isinstance(kind, str)):
        return f"a model of type {kind}" if isinstance(kind, str) else "a config.json of another kind"
    names = sorted(os.listdir(path))
    strange = [name for name in names if name not in _WRITTEN and not _NUMBERED.fullmatch(name)]
    return ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
