"""Choosing designs of a pretrained model: designs to beat, the solver's designs, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search_spaces.catalog import load_space
from search_spaces.pretrained import ModelSection
from search_spaces.replacements import KEEP
from search_spaces.space import SearchSpace
from studies.search.comparisons import comparisons
from studies.search.designs import BUDGETS, Design, DesignChooser
from studies.search.prediction import GAP, WORST, Known, Prediction, Scored
from studies.selection.grid import budgets
from studies.selection.solve import solve
from studies.storage.attributes import BASELINE, SUGGESTED_BY
from studies.study.trial_record import DONE, RUNNING, TrialRecord
from surgery.architecture import Architecture
from surgery.architecture.costs import cost

CACHE = "cache_bytes@1024"
W = "W window=32 sinks=4"
MODEL = Architecture.from_dict({
    "backbone": {
        "vocab_size": 512, "dim": 64, "num_layers": 8, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 128,
    },
})  # fmt: skip
TEXT = f"""
search:
  layers.mixer: {{choice: [keep, W: {{window: 32, sinks: 4}}, none]}}
  layers.ffn: {{choice: [keep, none]}}
objectives: {{kl: min, {CACHE}: min}}
"""


@pytest.fixture
def space(tmp_path: Path) -> SearchSpace:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return load_space(path, ModelSection("model", "0123", MODEL))


def scores(space: SearchSpace, seed: int = 0) -> dict[tuple[str, str], float]:
    draw = np.random.default_rng(seed)
    assert space.replacements is not None
    return {
        (part.name, label): float(draw.uniform(0.01, 0.2) * (1 if label == W else 5))
        for part in space.replacements.parts
        for label in part.labels[1:]
    }


def record(space: SearchSpace, number: int, design: Design, kl: float) -> TrialRecord:
    architecture = space.replacements.architecture(design.params) if space.replacements else MODEL
    metrics = {"kl": kl, CACHE: float(cost(architecture, CACHE))}
    empty = TrialRecord(
        number, DONE, tuple(metrics.values()), metrics, architecture.line, architecture.hash,
        architecture.to_dict(), design.attributes.get(BASELINE), True, "", "", 1.0, (),
    )  # fmt: skip
    return replace(empty, params=design.params)


def summed(kl: dict[tuple[str, str], float], params: dict[str, str]) -> float:
    return sum(kl[item] for item in params.items() if item[1] != KEEP)


def run(space: SearchSpace, chooser: DesignChooser, kl: dict[tuple[str, str], float]) -> list[TrialRecord]:
    """All designs of the chooser but the neighbours of the front, of which it has three."""
    records: list[TrialRecord] = []
    beyond = 0
    while beyond < 3 and (design := chooser.suggest(records)) is not None:
        beyond += not any(chooser._params(item.choice) == design.params for item in chooser.solutions) and (
            BASELINE not in design.attributes
        )
        records.append(record(space, len(records), design, summed(kl, design.params)))
    return records


def test_the_original_and_the_designs_to_beat_come_first(space: SearchSpace) -> None:
    kl = scores(space)
    records = run(space, DesignChooser(space, Scored(kl)), kl)
    named = [item.baseline for item in records if item.baseline]
    assert named[0] == "original"
    assert records[0].hash == MODEL.hash
    assert [item.baseline for item in records[: len(named)]] == named


def test_no_design_twice_and_none_beyond_the_pool(space: SearchSpace) -> None:
    kl = scores(space)
    records = run(space, DesignChooser(space, Scored(kl)), kl)
    assert len({item.hash for item in records}) == len(records) > 20


def test_every_design_to_beat_has_an_answer(space: SearchSpace) -> None:
    kl = scores(space)
    chooser = DesignChooser(space, Scored(kl))
    best = [pool[0] for pool in chooser.pools]
    assert space.replacements is not None
    for rival in comparisons(space.replacements, kl, [CACHE], lambda choice: summed(kl, choice)):
        budget = cost(space.replacements.architecture(rival.choice), CACHE)
        answers = [item.score for item in best if item.costs[CACHE] <= budget]
        assert min(answers) <= summed(kl, rival.choice) * 1.002, rival.name


def test_a_pool_has_the_best_sum_of_scores_and_what_interactions_make_of_it(space: SearchSpace) -> None:
    kl = scores(space)
    random = np.random.default_rng(1)
    sketches = {key: random.normal(size=3).astype(np.float32) for key in kl}
    chooser = DesignChooser(space, Scored(kl, sketches))
    improved = 0
    for limits in budgets(chooser.selection, [CACHE], BUDGETS):
        (additive,) = solve(chooser.selection, limits, gap=GAP)
        pool = next((pool for pool in chooser.pools if additive.choice in {item.choice for item in pool}), [])
        assert pool or chooser.predict(additive.choice) >= WORST
        predictions = [chooser.predict(item.choice) for item in pool]
        assert predictions == sorted(predictions)
        improved += bool(pool) and pool[0].choice != additive.choice
    assert improved > 0


def test_neighbours_of_the_front_come_last(space: SearchSpace) -> None:
    kl = scores(space)
    records = run(space, DesignChooser(space, Scored(kl)), kl)
    for last in records[-3:]:
        others = [item for item in records if item.number < last.number]
        apart = min(sum(last.params[name] != item.params[name] for name in last.params) for item in others)
        assert apart == 1


def test_what_another_worker_measures_now_is_not_suggested_again(space: SearchSpace) -> None:
    kl = scores(space)
    chooser = DesignChooser(space, Scored(kl))
    records = run(space, chooser, kl)
    for _ in range(3):
        design = chooser.suggest(records)
        assert design is not None
        assert all(design.params != item.params for item in records)
        begun = record(space, len(records), design, 0.0)
        records.append(replace(begun, state=RUNNING, values=None, metrics={}))


def test_a_resumed_study_goes_on_alike(space: SearchSpace) -> None:
    kl = scores(space)
    whole = run(space, DesignChooser(space, Scored(kl)), kl)
    again = DesignChooser(space, Scored(kl))
    for count in (0, 3, len(whole) - 1):
        design = again.suggest(whole[:count])
        assert design is not None
        assert design.params == whole[count].params


def test_who_suggested_it(space: SearchSpace) -> None:
    chooser = DesignChooser(space, Scored(scores(space)))
    first, second = (chooser.suggest(records) for records in ([], _all_named(space, chooser)))
    assert first is not None
    assert first.attributes == {BASELINE: "original"}
    assert second is not None
    assert second.attributes == {SUGGESTED_BY: "milp"}


def _all_named(space: SearchSpace, chooser: DesignChooser) -> Sequence[TrialRecord]:
    records: list[TrialRecord] = []
    while (design := chooser.suggest(records)) is not None and BASELINE in design.attributes:
        records.append(record(space, len(records), design, 0.1))
    return records


def _answers(space: SearchSpace) -> dict[tuple[str, str], float]:
    """Scores at answers that disagree with the text's: the layers cheapest on text are the worst here."""
    kl = scores(space)
    return {key: 0.4 / (1 + 40 * value) for key, value in kl.items()}


@pytest.mark.parametrize("weight", [0.03, 0.3, 3.0])
def test_a_prediction_is_the_weighted_sum(space: SearchSpace, weight: float) -> None:
    assert space.replacements is not None
    kl, answers = scores(space), _answers(space)
    known = [Known(space.replacements, Scored(values)) for values in (kl, answers)]
    both = Prediction(space.replacements, [CACHE], *known, weight)
    summed_up = {key: value + weight * answers[key] for key, value in kl.items()}
    wanted = Prediction(space.replacements, [CACHE], Known(space.replacements, Scored(summed_up)))
    limits = {CACHE: (None, 0.5 * cost(MODEL, CACHE))}
    assert both.best(limits, 1)[0].score == pytest.approx(wanted.best(limits, 1)[0].score, rel=2e-3)
    measured = {"kl": 0.1, "retrieval_kl": 2.0}
    assert both.measured(measured) == pytest.approx(0.1 + weight * 2)


def test_what_text_does_not_tell_is_searched_too(space: SearchSpace) -> None:
    kl, answers = scores(space), _answers(space)

    def lowest(chooser: DesignChooser) -> float:
        """The best answers of what it suggests under half of the cache, within 60 designs."""
        records: list[TrialRecord] = []
        while len(records) < 60 and (design := chooser.suggest(records)) is not None:
            done = record(space, len(records), design, summed(kl, design.params))
            metrics = {**done.metrics, "retrieval_kl": summed(answers, design.params)}
            records.append(replace(done, metrics=metrics))
        return min(
            item.metrics["retrieval_kl"] for item in records
            if item.baseline is None and item.metrics[CACHE] <= 0.5 * cost(MODEL, CACHE)
        )  # fmt: skip

    text_alone = lowest(DesignChooser(space, Scored(kl)))
    assert lowest(DesignChooser(space, Scored(kl), Scored(answers))) < 0.95 * text_alone
