"""Settings of the long trainings of an audit."""

from __future__ import annotations

from dataclasses import replace

from studies.audit.plan import Audit
from studies.training.settings import TrainSettings
from studies.workers.proxy import settings_of


def long_settings(audit: Audit, steps: int | None = None) -> TrainSettings:
    """Return the proxy's settings for `times` as many tokens, with the same rule for the data order.

    A proxy may omit the decay of the learning rate; a long run has it, as `nas train` does. A warm-up in
    tokens keeps its length.

    Args:
        steps: of the proxy's run, if its budget was in seconds.
    """
    study = audit.study
    settings = settings_of(study)
    tokens = settings.tokens if steps is None else steps * settings.batch_tokens
    final_lr = min(settings.final_lr, TrainSettings.final_lr)
    return replace(settings, tokens=audit.times * tokens, final_lr=final_lr)
