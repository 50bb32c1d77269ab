"""Runs of an audit over a pretrained model: designs healed alike, and their control."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from studies.audit.plan import CONTROL, Audit, Run
from studies.data import TokenData
from studies.files.json_file import read_json, write_json
from studies.healing.control import control_loss
from studies.healing.heal import heal
from studies.healing.settings import HealSettings
from studies.healing.watch import Watch
from studies.stats.seeds import derive_seed
from studies.training.loop import Interrupted, Progress
from studies.workers.designs import Designs
from surgery.apply.plan import plan

OnStep = Callable[[Progress], None]


def heal_settings(audit: Audit, seed: int) -> HealSettings:
    """Return the recipe of an audit's healings."""
    library = audit.study.space.library
    assert library is not None, "only designs of a pretrained model are healed"
    return HealSettings(
        tokens=audit.heal or 0, seq_len=library.seq_len, eval_tokens=library.eval_tokens, seed=seed
    )


class HealedRuns:
    """Heals designs of a study, from the library's parts and by the same recipe as their control."""

    def __init__(self, audit: Audit, data: TokenData, device: torch.device) -> None:
        """Open the study's model and library; what is missing of that is built."""
        self.audit, self.data = audit, data
        self.designs = Designs.open(
            audit.study, data, device, lambda status: None, lambda: False, lambda line: None
        )

    def control(self, on_step: OnStep) -> dict[str, float | None] | None:
        """Write the losses of the original model, as it is and trained by the same recipe, once.

        With the KL divergence of the latter from the former.

        Returns:
            What was written; None if it was known.
        """
        path = self.audit.folder / CONTROL
        if read_json(path) is not None:
            return None
        settings = heal_settings(self.audit, self.audit.study.settings.seed)
        teacher = self.designs.teacher
        watch = Watch(on_step=lambda stage, progress: on_step(progress))
        trained = control_loss(teacher, self.data, settings, watch)
        original = teacher.loss(self.data, settings)
        losses = {"original": original.val_loss, "control": trained.val_loss, "control_kl": trained.kl}
        write_json(path, losses)
        return losses

    def heal(
        self, run: Run, on_step: OnStep | None, should_stop: Callable[[], bool] | None
    ) -> dict[str, Any]:
        """Heal a design and return its losses.

        Raises:
            Interrupted: `should_stop` returned True.
            TrainingFailed: the loss is not finite or exploded.
        """
        record = self.audit.study.record(run.member.number)
        architecture = record.build()
        seed = derive_seed(self.audit.study.settings.seed, "heal", run.repeat)  # the same text for all
        model = copy.deepcopy(self.designs.assemble(architecture))  # else the teacher would be trained, too
        planned = plan(self.designs.teacher.source, architecture, stock=False)

        def step(stage: str, progress: Progress) -> None:
            if should_stop is not None and should_stop():
                raise Interrupted
            if on_step is not None:
                on_step(progress)

        settings = heal_settings(self.audit, seed)
        healing = heal(
            model.requires_grad_(True), planned, self.designs.teacher, self.data, settings,
            watch=Watch(on_step=step),
        )  # fmt: skip
        assert healing.after is not None
        result = asdict(healing.after)
        kept = healing.after if healing.kept == "healed" else healing.before
        return {
            **result, "val_loss": kept.val_loss, "val_bpb": kept.val_bpb, "kl": healing.kl[healing.kept],
            "before": healing.before.val_loss, "kept": healing.kept, "seed": seed,
        }  # fmt: skip
