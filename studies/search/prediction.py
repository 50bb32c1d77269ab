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


class Known:
    """Scores and interactions of all options of a space on some passages, numbered as the space does."""

    def __init__(self, replacements: Replacements, scored: Scored) -> None:
        self.replacements, self.scored = replacements, scored

    @cached_property
    def scores(self) -> list[Array]:
        """For each part, the scores of its options; keeping a part scores 0."""
        scores = self.scored.scores
        return [
            np.array([0.0 if label == KEEP else scores[part.name, label] for label in part.labels])
            for part in self.replacements.parts
        ]

    @cached_property
    def terms(self) -> Array | None:
        """The interactions of all pairs of options (`studies.selection.interactions`); None: no sketches."""
        sketches = self.scored.sketches
        if sketches is None:
            return None
        nothing = np.zeros(len(next(iter(sketches.values()))), dtype=np.float32)
        rows = ([sketches.get((part.name, label), nothing) for label in part.labels]
                for part in self.replacements.parts)  # fmt: skip
        return pair_terms(rescaled([np.stack(part).astype(np.float64) for part in rows], self.scores))


class Prediction:
    """Predicts the KL divergence of designs on text, plus a weight times that at the answers of prompts.

    Replacements that move the text's KL beyond `WORST` on their own are never chosen.
    """

    def __init__(
        self, replacements: Replacements, metrics: list[str], text: Known,
        answers: Known | None = None, weight: float = 0.0, times: BlockTimes | None = None,
    ) -> None:  # fmt: skip
        """Describe what is minimised.

        Args:
            replacements: the options of every part.
            metrics: costs that may be limited.
            text: on text.
            answers: at the answers of retrieval prompts.
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

    def best(self, limits: Limits, pool: int) -> list[Solution]:
        """Return the `pool` designs within limits with the best sums of scores, the best predicted first.

        With sketches there is one more: what a search under all interactions makes of the best of them.
        """
        solutions = solve(self.selection, limits, pool=pool, distance=DISTANCE, gap=GAP)
        if self.pairs is not None and solutions:
            solutions = [local_search(self.pairs, solutions[0].choice, limits), *solutions]
        known = {item.choice: item for item in solutions}
        return sorted(known.values(), key=lambda item: (self.predict(item.choice), item.choice))

    @cached_property
    def selection(self) -> Selection:
        """The problem for the solver: scores and exact costs of every option of every part."""
        total = self.text.scores
        if self.answers is not None:
            pairs = zip(total, self.answers.scores, strict=True)
            total = [one + self.weight * other for one, other in pairs]
        scored = zip(self.text.scores, total, strict=True)
        model, times = self.replacements.model, self.times
        return Selection(
            scores=[np.where(text > WORST, np.inf, both) for text, both in scored],
            costs={
                metric: [
                    np.array(row, dtype=np.int64) for row in self.replacements.differences(metric, times)
                ]
                for metric in self.metrics
            },
            base={metric: cost_in_steps(model, metric, times) for metric in self.metrics},
        )

    @cached_property
    def pairs(self) -> SecondOrder | None:
        """Predicts from all pairs of replacements; None without sketches."""
        terms = self.text.terms
        if terms is None:
            return None
        if self.answers is not None and self.answers.terms is not None:
            terms = terms + self.weight * self.answers.terms
        return SecondOrder(self.selection, terms)
