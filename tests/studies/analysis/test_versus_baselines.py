"""Comparison of a search's results with the papers' designs of no lower cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from search_spaces import SearchSpace, parse_space
from studies.analysis.standings import Standings
from studies.analysis.versus_baselines import (
    BEATEN,
    ERROR,
    NO_RIVAL,
    NOT_BEATEN,
    UNKNOWN,
    Duel,
    VersusBaselines,
    costs_of,
)
from studies.stats.seed_noise import t_factor
from studies.study.trial_record import TrialRecord
from tests.studies.refined import refined
from tests.studies.tables import OBJECTIVES, record

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


NOISE = [arch(90 + index, [9.0, 9.01, 9.0, 9.01], 1e6, 1e6) for index in range(2)]  # six degrees of freedom


def test_beaten_not_beaten_and_unknown(space: SearchSpace) -> None:
    dense = arch(0, [3.0, 3.01], 100, 10, "dense")
    better = arch(1, [2.5, 2.51], 100, 10)
    [won] = duels(space, dense, better, arch(2, [3.2], 50, 5), *NOISE).duels
    assert (won.outcome, won.rival, won.rivals) == (BEATEN, better, 2)
    assert won.ahead == pytest.approx(0.5)
    assert won.at_least is not None
    assert 0.4 < won.at_least < 0.5
    [lost] = duels(space, dense, arch(1, [3.5], 100, 10), arch(2, [3.6], 50, 5), *NOISE).duels
    assert lost.outcome == NOT_BEATEN
    [open_] = duels(space, dense, arch(1, [3.0], 100, 10), arch(2, [3.6], 50, 5), *NOISE).duels
    assert open_.outcome == UNKNOWN
    [once] = duels(space, arch(0, [3.0], 100, 10, "dense"), arch(1, [2.0], 100, 10)).duels
    assert (once.outcome, once.half, once.at_least) == (UNKNOWN, None, None)


def test_nothing_is_decided_by_single_runs_or_unknown_noise(space: SearchSpace) -> None:
    twice, once = [3.0, 3.01], [3.0]
    for own, others, more in ((once, [2.0, 2.01], NOISE), (twice, [2.0], NOISE), (twice, [2.0, 2.01], [])):
        [duel] = duels(space, arch(0, own, 100, 10, "dense"), arch(1, others, 100, 10), *more).duels
        assert duel.outcome == UNKNOWN
        assert duel.half is not None


def test_bounds_hold_for_all_baselines_and_rivals_together(space: SearchSpace) -> None:
    """More comparisons make wider bounds; a single one has Student's t."""
    halves = []
    for count in (1, 4):
        rivals = [arch(10 + index, [2.9], 100, 10) for index in range(count)]
        designs = [arch(index, [3.0, 3.01], 100, 10, f"design {index}") for index in range(count)]
        result = duels(space, *designs, *rivals, *NOISE)
        noise, half = result.standings.noise, result.duels[0].half
        assert noise is not None
        assert half is not None
        factor = half / (noise.sd[0] * (1 + 1 / 2) ** 0.5)
        if count == 1:
            assert factor == pytest.approx(t_factor(1 - 2 * ERROR, noise.df), rel=0.1)
        halves.append(factor)
    assert halves[1] > 1.3 * halves[0]


def test_many_runs_speak_louder_than_one_lucky_one(space: SearchSpace) -> None:
    [duel] = duels(
        space,
        arch(0, [3.0, 3.1, 2.9], 100, 10, "dense"),
        arch(1, [2.5], 100, 10),
        arch(2, [2.52, 2.5, 2.54, 2.52], 100, 10),
    ).duels
    assert duel.rival is not None
    assert duel.rival.number == 2


@pytest.mark.slow
def test_chance_seldom_beats_a_design_although_refining_is_watched(space: SearchSpace) -> None:
    """Four designs and eight architectures that are equally good, refined with a look after every run."""
    rounds, alarms, at_least = 200, 0, []
    for seed in range(rounds):
        said, last = watched(space, [3.0] * 12, seed)
        alarms += bool(said)
        at_least.append(max(duel.at_least or 0.0 for duel in last))
    print(f"false alarms: {alarms / rounds:.1%}; largest 'at least': {np.mean(at_least):.2f} sd on the mean")
    assert alarms / rounds <= 0.07


@pytest.mark.slow
def test_a_design_that_is_worse_is_found_out_by_refining(space: SearchSpace) -> None:
    """By three standard deviations of a run; at the end at_least is below the truth."""
    rounds, seen, wrong = 60, 0, 0
    for seed in range(rounds):
        said, last = watched(space, [6.0, *[3.0] * 11], seed)
        seen += 0 in said
        wrong += (last[0].at_least or 0.0) > 3.0
    print(f"found out: {seen / rounds:.0%}; 'at least' is too large in {wrong / rounds:.1%}")
    assert seen / rounds >= 0.9
    assert wrong / rounds <= 0.07


def watched(space: SearchSpace, losses: list[float], seed: int) -> tuple[set[int], list[Duel]]:
    """Designs said to be beaten at any moment of refining, the first four being designs; the last duels."""
    said: set[int] = set()
    last: list[Duel] = []

    def watch(records: object, standings: object, versus: VersusBaselines | None) -> None:
        assert versus is not None
        said.update(duel.baseline.number for duel in versus.duels if duel.outcome == BEATEN)
        last[:] = versus.duels

    params = [200.0 + index if index < 4 else 100.0 + index for index in range(len(losses))]
    refined(losses, params, 1.0, 5, np.random.default_rng(seed), plain(space), 4, watch)
    return said, last


def plain(space: SearchSpace) -> SearchSpace:
    """The space with the objectives of the made-up records, and no constraint."""
    return replace(space, objectives=OBJECTIVES, constraints=())


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
        arch(1, [2.5, 2.51], 100, 10),
        arch(2, [1.0, 1.01], 10, 1, "lt2-looped"),
        *NOISE,
    )
    assert settled.duels[0].verdict == BEATEN
    assert settled.summary("nas refine s") == (
        "Beaten at no higher cost: #0 dense; nothing that was searched costs as little as #2 lt2-looped."
    )


def test_a_lead_that_is_not_claimed_says_why(space: SearchSpace) -> None:
    [duel] = duels(space, arch(0, [3.0], 100, 10, "dense"), arch(1, [2.5, 2.51], 100, 10), *NOISE).duels
    assert duel.at_least is not None
    assert duel.at_least > 0
    assert duel.verdict == f"{UNKNOWN}: too few runs"


def test_a_summary_says_when_there_is_nothing_to_compare_with(space: SearchSpace) -> None:
    first = duels(space, arch(0, [3.0], 100, 10, "dense"), arch(1, [2.0], 90, 9, "lt2-looped"))
    assert first.alone
    assert first.summary("nas refine s") == "Nothing that was searched is trained yet."
    broken = duels(space, arch(0, [3.0], 100, 10, "dense"), replace(arch(1, [2.0], 100, 10), feasible=False))
    assert broken.alone
    assert broken.summary() == "Nothing that was searched meets the constraints."
    assert not duels(space, arch(0, [3.0], 100, 10, "dense"), arch(1, [2.0], 200, 10)).alone


def test_json(space: SearchSpace) -> None:
    data = duels(space, arch(0, [3.0, 3.01], 100, 10, "dense"), arch(1, [2.5, 2.51], 90, 10), *NOISE)
    [text] = json.loads(json.dumps(data.to_dict()))
    assert text["baseline"] == "dense"
    assert text["outcome"] == BEATEN
    assert text["rival"]["costs"] == {"params": 90, CACHE: 10}
    assert text["rival"]["at_least"] == text["rival"]["interval"][0]
    assert text["rival"]["interval"][0] < text["rival"]["ahead"] < text["rival"]["interval"][1]
    [alone] = duels(space, arch(0, [3.0], 100, 10, "dense")).to_dict()
    assert alone["rival"] is None
