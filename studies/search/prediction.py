"""Predicting designs of a pretrained model from the scores of their parts, and the best of a budget."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_spaces.replacements import KEEP, Replacements
from studies.search.comparisons import Kl
from studies.selection.interactions import SecondOrder, pair_terms, rescaled
from studies.selection.local_search import local_search
from studies.selection.problem import Array, Choice, Limits, Selection, Solution
from studies.selection.solve import solve
from surgery.architecture.block_times import BlockTimes
from surgery.architecture.costs import cost_in_steps

POOL = 2  # designs of each budget
GAP = 1e-3  # share of the score by which a design may miss the optimum: less than scores are known to
DISTANCE = 2  # parts in which the designs of a pool differ at least
# nats/token: a model so far from the original has lost what made it worth keeping, and healing it is training
# from scratch; improvements beyond it don't count
WORST = 1.0
Sketches = Mapping[
    tuple[str, str], NDArray[np.float32]
]  # by (part's name, label), see studies.library.sketch


class Scored(NamedTuple):
    """Scores and sketches of the replacements on some passages.

    Attributes:
        scores: KL divergence in nats/token by (part's name, label).
        sketches: of every replacement, for the interactions of pairs; None: scores simply add up.
    """

    scores: Kl
    sketches: Sketches | None = None


class Prediction:
    """Predicts the KL divergence of designs on text, plus a weight times that at the answers of prompts.

    Replacements that move the text's KL beyond `WORST` on their own are never chosen.
    """

    def __init__(
        self, replacements: Replacements, metrics: list[str], text: Scored,
        answers: Scored | None = None, weight: float = 0.0, times: BlockTimes | None = None,
    ) -> None:  # fmt: skip
        """Describe what is minimised.

        Args:
            replacements: the options of every part.
            metrics: costs that may be limited.
            text: scores on text.
            answers: scores at the answers of retrieval prompts.
            weight: of the answers.
            times: of the blocks, for latencies.
        """
        assert answers is not None or weight == 0
        self.replacements, self.metrics, self.weight = replacements, metrics, weight
        self.text, self.answers, self.times = text, answers, times

    def measured(self, metrics: Mapping[str, float]) -> float:
        """Return what was measured of what is predicted, given the metrics of a design."""
        return metrics["kl"] + (self.weight * metrics["retrieval_kl"] if self.weight else 0.0)

    def predict(self, choice: Choice) -> float:
        """Return the predicted value of a design in nats/token."""
        return self.selection.score(choice) if self.pairs is None else self.pairs.predict(choice)

    def best(self, limits: Limits) -> list[Solution]:
        """Return the designs within limits that are predicted best, `POOL` and one more at most."""
        pool = solve(self.selection, limits, pool=POOL, distance=DISTANCE, gap=GAP)
        if self.pairs is not None and pool:
            pool = [local_search(self.pairs, pool[0].choice, limits), *pool]
        known = {item.choice: item for item in pool}
        return sorted(known.values(), key=lambda item: (self.predict(item.choice), item.choice))

    @cached_property
    def selection(self) -> Selection:
        """The problem for the solver: scores and exact costs of every option of every part."""
        text = self._rows(self.text)
        total = text
        if self.weight and self.answers is not None:
            answers = self._rows(self.answers)
            total = [one + self.weight * other for one, other in zip(text, answers, strict=True)]
        return Selection(
            scores=[np.where(row > WORST, np.inf, all_) for row, all_ in zip(text, total, strict=True)],
            costs={
                metric: [
                    np.array(row, dtype=np.int64)
                    for row in self.replacements.differences(metric, self.times)
                ]
                for metric in self.metrics
            },
            base={
                metric: cost_in_steps(self.replacements.model, metric, self.times) for metric in self.metrics
            },
        )  # fmt: skip

    @cached_property
    def pairs(self) -> SecondOrder | None:
        """Predicts from all pairs of replacements; None without sketches."""
        terms = self._terms(self.text)
        if terms is None:
            return None
        if self.weight and self.answers is not None:
            answers = self._terms(self.answers)
            terms = terms if answers is None else terms + self.weight * answers
        return SecondOrder(self.selection, terms)

    def _rows(self, scored: Scored) -> list[Array]:
        """Return, for each part, the scores of its options."""
        return [
            np.array([0.0 if label == KEEP else scored.scores[part.name, label] for label in part.labels])
            for part in self.replacements.parts
        ]

    def _terms(self, scored: Scored) -> Array | None:
        """Return the interactions of all pairs; None without sketches."""
        if scored.sketches is None:
            return None
        nothing = np.zeros(len(next(iter(scored.sketches.values()))), dtype=np.float32)
        rows = ([scored.sketches.get((part.name, label), nothing) for label in part.labels]
                for part in self.replacements.parts)  # fmt: skip
        features = [np.stack(part).astype(np.float64) for part in rows]
        return pair_terms(rescaled(features, self._rows(scored)))
