"""The trainings that a healing consists of, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from studies.healing.adapters import ADAPTER
from studies.healing.alignment import Alignment, pairs_of
from studies.healing.distillation import Distillation
from studies.healing.parts import TRANSPLANTED, check_freeze, new_tensors, trained
from studies.healing.settings import KL_SHARES, HealSettings
from studies.healing.teacher import Teacher
from studies.training.objective import CrossEntropy, Objective
from studies.training.settings import TrainSettings
from surgery.apply.plan import Plan
from surgery.config.problems import Problem, UserError


@dataclass(frozen=True)
class Stage:
    """One training.

    Attributes:
        name: `aligned` or `healed`, said of its result.
        training: settings of the loop.
        objective: the loss.
        rates: peak learning rate of each parameter that is trained.
        skip: batches of the text that earlier stages have trained on.
    """

    name: str
    training: TrainSettings
    objective: Objective
    rates: Mapping[str, float]
    skip: int = 0

    @property
    def scales(self) -> dict[str, float]:
        """Factors of the settings' learning rate by parameter name."""
        return {name: rate / self.training.lr for name, rate in self.rates.items()}


def stages(planned: Plan, names: Iterable[str], teacher: Teacher, settings: HealSettings) -> Iterator[Stage]:
    """Yield the stages that the settings ask for; together they read the text once.

    Args:
        planned: the surgery that the model comes from.
        names: all parameters of the model.
        teacher: the original model.
        settings: of the healing.

    Raises:
        UserError: nothing is left to train.
    """
    names, new = set(names), new_tensors(planned)
    if settings.lora is not None:  # what is carried over is trained by its adapters alone
        names = {name for name in names if name in new or ADAPTER in name}
    check_freeze(names, settings.freeze)
    trainable = trained(names, settings.freeze)
    skip = 0
    if settings.align_tokens:
        pairs = pairs_of(planned)
        inside = {name for name in trainable if name.startswith(tuple(pair.prefix for pair in pairs))}
        if not inside:
            rule = "has no effect: there are no new parts to train"
            raise UserError("nothing to align", [Problem("--align", settings.align_tokens, rule)])
        training = settings.alignment(len(pairs))
        fresh = new - {tensor.name for tensor in planned.tensors if tensor.action == TRANSPLANTED}
        rates = {name: settings.align_lr if name in fresh else settings.align_lr_carried for name in inside}
        yield Stage("aligned", training, Alignment(teacher.model, pairs), rates)
        skip = training.steps
    if settings.tokens:
        training = settings.training()
        rates = {name: settings.new_rate if name in new else settings.lr for name in trainable}
        yield Stage("healed", training, _objective(planned, teacher, settings), rates, skip)


def _objective(planned: Plan, teacher: Teacher, settings: HealSettings) -> Objective:
    """Return the loss of the training of the whole model.

    Raises:
        UserError: hidden states can't be compared, since both models don't run equally many layers.
    """
    share, weight = KL_SHARES[settings.loss], settings.hidden_weight
    if weight:
        before, after = (
            each.backbone.num_layers * each.loop_count for each in (planned.before, planned.after)
        )
        if before != after:
            rule = f"compares layer by layer, but the original runs {before} layers and the result {after}"
            raise UserError("can't compare hidden states", [Problem("--hidden-weight", weight, rule)])
    return Distillation(teacher.model, share, weight) if share or weight else CrossEntropy()
