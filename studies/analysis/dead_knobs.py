"""Dead hyperparameters: fields of a search without an effect, each with its evidence.

CANNOT: another value gives the same model or is known to be unused, so that it can have no effect.
ZERO: other values give the same gradient, to the last bit or to rounding, on real text at initialisation.
NOT_SEEN: no effect on the loss is detectable in the trials so far; there may be one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from search_spaces.trial import ReplayTrial
from studies.analysis.importances import Field, Importances, other_values
from studies.data import TokenData
from studies.stats.seeds import derive_seed
from studies.study import Study
from studies.study.trial_record import DONE, TrialRecord
from surgery.architecture import Architecture
from surgery.architecture.costs import cost

CANNOT, ZERO, NOT_SEEN = "cannot have an effect", "zero gradient", "no effect seen"

FEWEST = 40  # trials with a field, for the absence of an effect to be reported
SEEN = 0.1  # p above which no effect is detected
TRIALS, VALUES = 3, 2  # trials whose gradients are compared, and other values of each
SEQUENCES = 2  # per batch
ROUNDING = 1e-6  # relative to a gradient's norm: kernels may sum in another order


@dataclass(frozen=True)
class DeadKnob:
    """A field without effect of a `kind` above; `field` is empty if the evidence names it."""

    field: str
    kind: str
    evidence: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        prefix = f"{self.field}: " if self.field else ""
        return f"{prefix}{self.kind}{' ' if self.kind == NOT_SEEN else ': '}{self.evidence}"


def dead_knobs(study: Study, scores: Importances, data: TokenData | None) -> list[DeadKnob]:
    """Return each dead field with its strongest evidence; without `data`, gradients are not compared."""
    records = [record for record in study.records() if record.state == DONE and record.params]
    knobs = list(_known(study))
    for field in scores.fields:
        knob = (
            _same_model(field)
            or (data and _zero_gradient(study, field, records, data))
            or _not_seen(field, scores)
        )
        if knob:
            knobs.append(knob)
    return knobs


def _known(study: Study) -> list[DeadKnob]:
    """Return the fields that the space and the trained architectures warn about."""
    knobs = [DeadKnob("", CANNOT, text) for text in study.space.warnings()]
    drawn = [record for record in study.records() if record.architecture is not None and record.state == DONE]
    counts = Counter(text for record in drawn for text in record.build().warnings())
    knobs += [
        DeadKnob("", CANNOT, f"{text} ({count} of {len(drawn)} trials)") for text, count in counts.items()
    ]
    return knobs


def _same_model(field: Field) -> DeadKnob | None:
    if field.changes_architecture:
        return None
    return DeadKnob(field.name, CANNOT, "other values gave the same architecture in every trial looked at")


def _not_seen(field: Field, scores: Importances) -> DeadKnob | None:
    if field.p is None or field.p <= SEEN or field.trials < FEWEST:
        return None
    costs = "it changes exact costs" if field.changes_costs else "nor does it change a cost"
    evidence = (
        f"on {scores.loss_name} (p = {field.p:.2g}, n = {field.trials}; means differ by {field.spread:.3f}, "
        f"all trials have a standard deviation of {scores.loss_spread:.3f}); {costs}"
    )
    return DeadKnob(field.name, NOT_SEEN, evidence)


def _zero_gradient(
    study: Study, field: Field, records: Sequence[TrialRecord], data: TokenData
) -> DeadKnob | None:
    looked: list[int] = []
    worst = 0.0
    for record in (item for item in records if field.name in item.params):
        here = study.space.sample(ReplayTrial(record.params))
        pairs = 0
        for value in other_values(study, record, field.name)[-VALUES:]:
            there = study.space.sample(ReplayTrial({**record.params, field.name: value}))
            if there.hash == here.hash:
                continue
            apart = gradient_distance(here, there, data, study.space.proxy.seq_len)
            if apart is None or apart > ROUNDING:
                return None
            worst, pairs = max(worst, apart), pairs + 1
        looked += [record.number] if pairs else []
        if len(looked) == TRIALS:
            break
    if not looked:
        return None
    how = "to the last bit" if worst == 0 else "to rounding"
    tokens = SEQUENCES * study.space.proxy.seq_len
    trials = ", ".join(f"#{number}" for number in looked)
    costs = "; it changes exact costs" if field.changes_costs else ""
    evidence = (
        f"other values give the same gradient {how} at the first step ({tokens} tokens, in {trials}){costs}"
    )
    return DeadKnob(field.name, ZERO, evidence)


def gradient_distance(one: Architecture, other: Architecture, data: TokenData, seq_len: int) -> float | None:
    """Return the distance of two architectures' gradients at equal weights, relative to the first's norm.

    None if their parameters differ.
    """
    import torch

    from surgery.model import HybridLM

    if cost(one, "params") != cost(other, "params"):
        return None
    models = []
    for architecture in (one, other):
        torch.manual_seed(0)
        models.append(HybridLM(architecture))
    first, second = (dict(model.named_parameters()) for model in models)
    if {name: item.shape for name, item in first.items()} != {
        name: item.shape for name, item in second.items()
    }:
        return None
    models[1].load_state_dict(models[0].state_dict())
    rows = torch.from_numpy(data.batch(_sample_sequences(data, seq_len), seq_len))
    for model in models:
        torch.manual_seed(1)  # the noise of HDPL
        loss, auxiliary = model.train().loss(rows[:, :-1], rows[:, 1:])
        (loss + auxiliary).backward()
    zero = torch.zeros(())
    apart = sum(
        float(((zero if a.grad is None else a.grad) - (zero if b.grad is None else b.grad)).square().sum())
        for a, b in zip(first.values(), second.values(), strict=True)
    )
    norm = sum(float(item.grad.square().sum()) for item in first.values() if item.grad is not None)
    return float((apart / norm) ** 0.5) if norm else 0.0


def _sample_sequences(data: TokenData, seq_len: int) -> np.ndarray:
    count = data.num_sequences("train", seq_len)
    rng = np.random.default_rng(derive_seed("gradient"))
    return rng.choice(count, size=min(SEQUENCES, count), replace=False)
