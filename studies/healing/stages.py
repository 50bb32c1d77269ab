"""The trainings that a healing consists of, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from studies.healing.adapters import adapted_name
from studies.healing.alignment import Alignment, pairs_of
from studies.healing.checks import check_plan
from studies.healing.distillation import Distillation
from studies.healing.parts import MOVED, new_tensors, trained
from studies.healing.settings import KL_SHARES, HealSettings
from studies.healing.teacher import Teacher
from studies.training.objective import CrossEntropy, Objective
from studies.training.settings import TrainSettings
from surgery.apply.plan import Plan

CHECKPOINTS = 10  # of a stage


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
    def save_at(self) -> frozenset[int]:
        """Steps after which the state is saved: a tenth of the steps apart, and after evaluations."""
        steps = self.training.steps
        return frozenset(range(0, steps + 1, -(-steps // CHECKPOINTS))) | self.training.eval_steps

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
        UserError: the settings make no sense for this surgery, see `check_plan`.
    """
    check_plan(planned, settings)
    new, trainable = new_tensors(planned), _trainable(planned, names, settings)
    skip = 0
    if settings.align_tokens:
        pairs = pairs_of(planned)
        training = settings.alignment(len(pairs))
        inside = {name for name in trainable if name.startswith(tuple(pair.prefix for pair in pairs))}
        fresh = new - {tensor.name for tensor in planned.tensors if tensor.action in MOVED}
        rates = {name: settings.align_lr if name in fresh else settings.align_lr_carried for name in inside}
        yield Stage("aligned", training, Alignment(teacher.model, pairs), rates)
        skip = training.steps
    if settings.tokens:
        training = settings.training()
        actions = {tensor.name: tensor.action for tensor in planned.tensors}
        rates = {name: settings.rate(actions.get(name, "kept")) for name in trainable}
        share, weight = KL_SHARES[settings.loss], settings.hidden_weight
        objective = Distillation(teacher.model, share, weight) if share or weight else CrossEntropy()
        yield Stage("healed", training, objective, rates, skip)


def _trainable(planned: Plan, names: Iterable[str], settings: HealSettings) -> frozenset[str]:
    """Return the parameters that are trained: with adapters, those and what is not the original's."""
    if settings.lora is None:
        return trained(names, settings.freeze)
    new = new_tensors(planned)
    plain = {name: adapted_name(name) or name for name in names if name in new or adapted_name(name)}
    free = trained(plain.values(), settings.freeze)
    return frozenset(name for name, owner in plain.items() if owner in free)
