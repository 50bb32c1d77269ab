"""Expected time of an audit, by what the study's own trials took."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from studies.audit.healed import heal_settings
from studies.audit.plan import CONTROL, Audit, Run

# Passes over a token of a healing, each as long as the model's forward pass: the original's, the model's, and
# its backward pass, which is two.
PASSES = 4
# Evaluations besides the training's: the loss and the divergence (two passes), before and after it.
OTHER_EVALUATIONS = 6


def expected_seconds(audit: Audit, runs: Sequence[Run]) -> float:
    """Return the seconds of runs one after the other, and of their control where it is not known yet.

    An architecture's long run takes `times` as long as its proxy did. A healing is estimated from the
    measurement of its design, roughly a forward pass over the held-out text.
    """
    took = {record.number: record.seconds for record in audit.study.records() if record.seconds}
    if not took:
        return 0.0
    usual = median(took.values())
    seconds = [took.get(run.member.number, usual) for run in runs]
    if audit.heal is None:
        return audit.times * sum(seconds)
    if not (audit.folder / CONTROL).is_file():
        seconds.append(usual)
    settings = heal_settings(audit, 0)
    training = settings.training()
    evaluations = len(training.eval_at) + OTHER_EVALUATIONS
    passes = PASSES * training.steps * training.batch_tokens / settings.eval_tokens + evaluations
    return passes * sum(seconds)
