"""Measurement and healing between fitting and writing, for `nas apply`."""

from __future__ import annotations

import torch

from studies.data import TokenData
from studies.healing.heal import Watch, heal, restore_dtypes, text_of
from studies.healing.parts import new_tensors
from studies.healing.report import Healing
from studies.healing.settings import HealSettings
from studies.healing.teacher import Teacher, measure
from studies.training.batches import check_data
from surgery.apply.plan import Plan
from surgery.apply.source import SourceModel
from surgery.config.problems import Problem, UserError
from surgery.model import HybridLM


class Healer:
    """Measures a rewritten model and trains it; pass it to `surgery.apply.pipeline.apply` as `heal`.

    Attributes:
        healing: the losses, once it was called.
        watch: callbacks.
    """

    def __init__(
        self,
        source: SourceModel,
        planned: Plan,
        data: TokenData,
        settings: HealSettings,
        *,
        device: torch.device,
        watch: Watch | None = None,
    ) -> None:
        """Prepare for one surgery.

        Args:
            source: the original model.
            planned: the surgery.
            data: tokens by the model's own tokenizer.
            settings: of the training; without tokens the model is only measured.
            device: where to compute.
            watch: callbacks.

        Raises:
            UserError: text and model don't fit.
        """
        self.source, self.planned, self.data, self.settings = source, planned, data, settings
        self.device, self.watch = device, watch or Watch()
        self.healing: Healing | None = None
        longest = source.backbone.max_position_embeddings
        if settings.seq_len > longest:
            rule = f"exceeds the model's context of {longest} tokens"
            problem = Problem("--seq-len", settings.seq_len, rule, "give fewer")
            raise UserError("model and data don't fit", [problem])
        check_data(data, settings.training(), source.backbone.vocab_size)

    def __call__(self, model: HybridLM) -> str:
        """Measure the model, train it in place if asked to, and return Markdown for the model card."""
        teacher = Teacher(self.source, self.device)
        if self.settings.tokens:
            new = new_tensors(self.planned)
            self.healing = heal(model, new, teacher, self.data, self.settings, watch=self.watch)
        else:
            self.healing = self._measured(model, teacher)
        return self.healing.card()

    def _measured(self, model: HybridLM, teacher: Teacher) -> Healing:
        """Return the losses without any training; the model stays as it is."""
        watch = self.watch
        original = teacher.loss(self.data, self.settings, watch.batches("original"))
        watch.report("original", original)
        dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        before = measure(model.float(), self.data, self.settings, self.device, watch.batches("rewritten"))
        restore_dtypes(model, dtypes)
        watch.report("rewritten", before)
        return Healing(text_of(self.data), original, before)
