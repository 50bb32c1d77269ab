"""The control: the original model trained by the same recipe.

A healed loss says little without it, since the text and the recipe alone change a model's loss.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from studies.data import TokenData
from studies.files.home import data_home
from studies.files.json_file import read_json, write_json
from studies.healing.heal import heal
from studies.healing.report import Control
from studies.healing.saved import Saved, short_hash, weights_hash
from studies.healing.settings import HealSettings
from studies.healing.teacher import Teacher, original
from studies.healing.watch import Watch
from studies.training.devices import describe
from surgery.apply.plan import plan


def control_loss(
    teacher: Teacher, data: TokenData, settings: HealSettings, watch: Watch | None = None
) -> Control:
    """Return the held-out loss of the original model after training by the same recipe.

    It trains on as many tokens as alignment and healing together, with the same loss (the divergence is that
    from itself before), learning rate and frozen parameters, and its best weights count. The result is kept
    in the user's cache, by weights, text and settings, and a killed control is resumed.

    Args:
        teacher: the original model.
        data: tokens by its own tokenizer.
        settings: of the healing that it is the control of.
        watch: callbacks.
    """
    watch = watch or Watch()
    settings = _recipe(teacher, settings)
    key = _key(teacher, data, settings)
    folder = controls_home() / short_hash(key)
    result = folder.with_suffix(".json")
    known = read_json(result)
    if known is None:
        only = Watch(
            on_step=lambda stage, now: watch.on_step("control", now), on_stage=watch.on_stage,
            on_note=watch.on_note,
        )  # fmt: skip
        with Saved(folder, key) as saved:
            model, planned = original(teacher.source), plan(teacher.source, teacher.source.architecture)
            healing = heal(
                model, planned, teacher, data, settings, saved=saved, watch=only,
                divergence=False,  # before the training it is 0
            )  # fmt: skip
            loss = healing.after if healing.after is not None and healing.step else healing.original
            known = {
                "key": key,
                "kl": teacher.divergence(model.float(), data, settings) if healing.step else 0.0,
                "loss": {"val_loss": loss.val_loss, "val_bpb": loss.val_bpb},
                "step": healing.step,
                "original": asdict(healing.original),
            }
            write_json(result, known)
            shutil.rmtree(folder, ignore_errors=True)
    else:
        watch.on_note(f"the control is known from an earlier run ({result})")
    measured = Control(**{**known["original"], **known["loss"]}, kl=known.get("kl"))
    watch.report("control", measured)
    return measured


def controls_home() -> Path:
    """Return the folder of controls in the user's cache."""
    return data_home().parent / "controls"


def _recipe(teacher: Teacher, settings: HealSettings) -> HealSettings:
    """Return the settings for the original model, which has no new parts."""
    names = [name for name, _ in teacher.model.named_parameters()]
    known = tuple(pattern for pattern in settings.freeze if any(fnmatchcase(name, pattern) for name in names))
    return replace(
        settings, tokens=settings.tokens + settings.align_tokens, align_tokens=0, lr_new=None, freeze=known,
        batch_tokens=settings.step_tokens, align_lr=0.0, align_lr_carried=0.0,
    )  # fmt: skip


def _key(teacher: Teacher, data: TokenData, settings: HealSettings) -> dict[str, Any]:
    return {
        "weights": weights_hash(teacher.source),
        "text": data.content_hash,
        "settings": asdict(settings),
        "device": describe(teacher.device)["device"],
    }
