"""Adapters: an offset for each latent of some projections of one model, stored as PEFT stores its adapters.

z = mu(x) + offset: `rank` numbers per projection and layer. They are no more than a shift of the bias of mu.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from surgery.config.json_source import read_object
from surgery.config.paths import expand
from surgery.config.problems import Problem, Problems, UserError
from surgery.hf.staging import staged
from surgery.latents.projections import Latent, in_order

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TYPE = "LATENT_OFFSETS"  # where PEFT has the type of an adapter


@dataclass(frozen=True)
class Adapter:
    """Offsets of the latents of one model.

    Attributes:
        offsets: (rank,) in float32 on the CPU, by projection.
        base: name of the model: a folder or a Hub id.
        base_hash: of its weights, see `hash_weights`.
        made: how it was made: command, text, settings, results; plain JSON values.
        name: of the adapter in messages.
    """

    offsets: Mapping[Latent, Tensor]
    base: str
    base_hash: str
    made: Mapping[str, Any] = field(default_factory=dict)
    name: str = "adapter"

    @property
    def parameters(self) -> int:
        """Number of offsets."""
        return sum(len(offset) for offset in self.offsets.values())

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder atomically: `adapter_config.json` and `adapter_model.safetensors`.

        Raises:
            UserError: the folder is not empty or can't be written.
        """
        out = check_adapter_target(folder)
        ordered = sorted(self.offsets, key=in_order)
        config = {
            "peft_type": TYPE,
            "base_model_name_or_path": self.base,
            "base_model_hash": self.base_hash,
            "parameters": self.parameters,
            "ranks": {str(latent): len(self.offsets[latent]) for latent in ordered},
            "made": dict(self.made),
        }
        tensors = {
            str(latent): self.offsets[latent].detach().float().cpu().contiguous() for latent in ordered
        }
        with staged(out) as staging:
            save_file(tensors, staging / WEIGHTS, metadata={"format": "pt"})
            text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
            (staging / CONFIG).write_text(text, encoding="utf-8")
        return out


def check_adapter_target(folder: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a folder if an adapter may be written there.

    Raises:
        UserError: it is a file, or a folder that is not empty.
    """
    path = expand(folder).absolute()
    taken = path.is_dir() and any(path.iterdir())
    if taken or (path.exists() and not path.is_dir()):
        rule = "exists and is not empty" if taken else "is not a folder"
        raise UserError(
            "can't write the adapter there", [Problem("output", str(path), rule, "choose another")]
        )
    return path


def load_adapter(folder: str | os.PathLike[str]) -> Adapter:
    """Read an adapter; whether it fits a model is checked where it is used.

    Raises:
        UserError: no such folder, or its files are damaged or of another kind; lists all problems.
    """
    path, problems = expand(folder), Problems()
    if not path.is_dir():
        problem = Problem("adapter", str(folder), "is not a folder", "name the folder of an adapter")
        raise UserError("can't read the adapter", [problem])
    config: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    try:
        config = read_object(path / CONFIG)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problems.add(CONFIG, None, f"can't be read: {reason}")
    if config and config.get("peft_type") != TYPE:
        hint = "`nas latents train` and `nas latents contrast` write such adapters"
        problems.add(f"{CONFIG}: peft_type", config.get("peft_type"), f"must be {TYPE}", hint)
        problems.raise_if_any(f"{folder}: not an adapter of latents")
    for name in ("base_model_name_or_path", "base_model_hash"):
        if config and not isinstance(config.get(name), str):
            problems.add(f"{CONFIG}: {name}", config.get(name), "must be text")
    try:
        tensors = load_file(path / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problems.add(WEIGHTS, None, f"can't be read: {reason}")
    offsets: dict[Latent, Tensor] = {}
    for name, tensor in tensors.items():
        latent = Latent.parse(name)
        if latent is None:
            problems.add(f"{WEIGHTS}: {name}", None, "is not a projection such as layers.0.gate")
        elif tensor.ndim != 1 or not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            problems.add(f"{WEIGHTS}: {name}", list(tensor.shape), "must be a vector of finite numbers")
        else:
            offsets[latent] = tensor.float()
    if config and isinstance(ranks := config.get("ranks"), dict) and not problems:
        stored = {str(latent): len(offset) for latent, offset in offsets.items()}
        for name in sorted(ranks.keys() | stored.keys()):
            if ranks.get(name) != stored.get(name):
                rule = f"{CONFIG} has {ranks.get(name, 'none')}, {WEIGHTS} {stored.get(name, 'none')}"
                problems.add(f"ranks: {name}", None, rule, "copy both files again")
    elif config and not problems:
        problems.add(f"{CONFIG}: ranks", config.get("ranks"), "must be an object of whole numbers")
    problems.raise_if_any(f"{folder}: the adapter can't be used")
    made = config.get("made")
    return Adapter(
        offsets, config["base_model_name_or_path"], config["base_model_hash"],
        made if isinstance(made, dict) else {}, str(folder),
    )  # fmt: skip


def check_base(adapters: Sequence[Adapter], model: nn.Module) -> None:
    """Check that every adapter was made for this model.

    Raises:
        UserError: names the adapters that were not.
    """
    if not adapters:
        return
    own, problems = hash_weights(model), Problems()
    for adapter in adapters:
        if adapter.base_hash != own:
            rule = f"was made for another model: weights {adapter.base_hash[:12]}, these are {own[:12]}"
            hint = f"use it with {adapter.base}, in the dtype of its weights"
            problems.add("adapter", adapter.name, rule, hint)
    problems.raise_if_any("the adapter does not fit the model")


def hash_weights(model: nn.Module) -> str:
    """Return a SHA-256 of a model's parameters by name, the same on every device and in longer dtypes.

    Offsets of latents that are being trained are left out.

    Args:
        model: a `HybridLM`, or a module around one.
    """
    inner = next((m for m in model.modules() if type(m).__name__ == "HybridLM"), model)
    digest = hashlib.sha256()
    with torch.no_grad():
        for name, parameter in sorted(inner.named_parameters()):
            if ".steer." not in name:
                digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
                digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
