"""Comparison of a search's results with the papers' designs of no lower cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from search_spaces import SearchSpace, parse_space
from studies.analysis.standings import Standings
from studies.analysis.versus_baselines import BEATEN, NO_RIVAL, NOT_BEATEN, UNKNOWN, VersusBaselines, costs_of
from studies.stats.seed_noise import LEVEL, t_factor
from studies.study.trial_record import TrialRecord
from tests.studies.tables import record

CACHE = "cache_bytes@64"
SPACE = """\
name: versus
backbone: {vocab_size: 320, dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64, tie_embeddings: true}
search: {loop.count: {choice: [1, 2, 3]}}
constraints: ["cache_bytes@64 <= 1MiB"]
objectives: {params: min, val_loss: min}
baselines: [dense, lt2-looped]
proxy: {tokens: 1024, seq_len: 32, batch_tokens: 256, rungs: [1.0], eval_tokens: 512}
data: {corpus: builtin, tokenizer: "bpe:320"}
"""


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return parse_space(SPACE, "versus.yaml")


def arch(
    number: int, losses: Sequence[float], params: float, cache: float, baseline: str | None = None
) -> TrialRecord:
    metrics = {"params": params, CACHE: cache}
    return record(number, [(params, loss) for loss in losses], baseline=baseline, metrics=metrics)


def duels(space: SearchSpace, *records: TrialRecord) -> VersusBaselines:
    return VersusBaselines(records, Standings(records, space.objectives, seed=0), space)


def test_costs_are_parameters_and_what_the_study_minimises_or_limits(space: SearchSpace) -> None:
    assert costs_of(space) == {"params": True, CACHE: True}
    text = SPACE.replace("params: min, val_loss: min", "val_loss: min, params: max, decode_flops@64: min")
    assert costs_of(parse_space(text, "other.yaml")) == {
        "params": False, CACHE: True, "decode_flops@64": True,
    }  # fmt: skip


def test_only_what_costs_no_more_counts(space: SearchSpace) -> None:
    result = duels(
        space,
        arch(0, [3.0, 3.01], 100, 10, "dense"),
        arch(1, [2.0], 101, 10),  # more parameters
        arch(2, [2.0], 100, 11),  # more cache
        replace(arch(3, [2.0], 100, 10), feasible=False),
        arch(4, [2.0], 90, 9, "lt2-looped"),
    )
    assert [duel.outcome for duel in result.duels] == [NO_RIVAL, NO_RIVAL]
    assert result.duels[0].rival is None


def test_beaten_not_beaten_and_unknown(space: SearchSpace) -> None:
    dense = arch(0, [3.0, 3.01], 100, 10, "dense")
    [won] = duels(space, dense, arch(1, [2.5], 100, 10), arch(2, [3.2], 50, 5)).duels
    assert (won.outcome, won.rival, won.rivals) == (BEATEN, arch(1, [2.5], 100, 10), 2)
    assert won.ahead == pytest.approx(0.505)
    [lost] = duels(space, dense, arch(1, [3.5], 100, 10), arch(2, [3.6], 50, 5)).duels
    assert lost.outcome == NOT_BEATEN
    [open_] = duels(space, dense, arch(1, [3.0], 100, 10), arch(2, [3.6], 50, 5)).duels
    assert open_.outcome == UNKNOWN
    [once] = duels(space, arch(0, [3.0], 100, 10, "dense"), arch(1, [2.0], 100, 10)).duels
    assert (once.outcome, once.half) == (UNKNOWN, None)


def test_the_interval_allows_for_having_chosen(space: SearchSpace) -> None:
    dense = arch(0, [3.0, 3.02], 100, 10, "dense")
    sd = 0.02 / 2**0.5
    for count in (1, 4):
        [duel] = duels(space, dense, *[arch(1 + index, [2.9], 100, 10) for index in range(count)]).duels
        factor = t_factor(1 - (1 - LEVEL) / count, 1)
        assert duel.half == pytest.approx(factor * sd * (1 + 1 / 2) ** 0.5)


def test_many_runs_speak_louder_than_one_lucky_one(space: SearchSpace) -> None:
    [duel] = duels(
        space,
        arch(0, [3.0, 3.1, 2.9], 100, 10, "dense"),
        arch(1, [2.5], 100, 10),
        arch(2, [2.52, 2.5, 2.54, 2.52], 100, 10),
    ).duels
    assert duel.rival is not None
    assert duel.rival.number == 2


def test_chance_seldom_beats_a_design(space: SearchSpace) -> None:
    """Twelve architectures no better than the design: one of twenty studies may say that it is beaten."""
    rng = np.random.default_rng(0)
    said = 0
    for _ in range(200):
        runs = [rng.normal(size=3), *rng.normal(size=(8, 1)), *rng.normal(size=(4, 3))]
        records = [
            arch(index, list(losses), 100, 10, None if index else "dense")
            for index, losses in enumerate(runs)
        ]
        said += duels(space, *records).duels[0].outcome == BEATEN
    assert said <= 200 * (1 - LEVEL) / 2 + 6


def test_a_summary_is_honest_about_single_runs(space: SearchSpace) -> None:
    once = duels(space, arch(0, [3.0], 100, 10, "dense"), arch(1, [2.0], 100, 10))
    assert once.duels[0].verdict == "ahead by one run each: can't tell yet"
    assert once.summary("nas refine s") == (
        "Ahead of #0 dense at no higher cost. Ahead and behind by one run each: not told apart from noise "
        "yet. nas refine s runs the closest ones again."
    )
    settled = duels(
        space,
        arch(0, [3.0, 3.01], 100, 10, "dense"),
        arch(1, [2.5], 100, 10),
        arch(2, [1.0, 1.01], 10, 1, "lt2-looped"),
    )
    assert settled.duels[0].verdict == BEATEN
    assert settled.summary("nas refine s") == (
        "Beaten at no higher cost: #0 dense; nothing that was searched costs as little as #2 lt2-looped."
    )


def test_json(space: SearchSpace) -> None:
    data = duels(space, arch(0, [3.0, 3.01], 100, 10, "dense"), arch(1, [2.5], 90, 10))
    [text] = json.loads(json.dumps(data.to_dict()))
    assert text["baseline"] == "dense"
    assert text["outcome"] == BEATEN
    assert text["rival"]["costs"] == {"params": 90, CACHE: 10}
    assert text["rival"]["interval"][0] < text["rival"]["ahead"] < text["rival"]["interval"][1]
    [alone] = duels(space, arch(0, [3.0], 100, 10, "dense")).to_dict()
    assert alone["rival"] is None
