"""Sampling is conditional, valid, repeatable and invertible."""

from __future__ import annotations

from itertools import islice
from typing import Any

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search_spaces import RandomTrial, ReplayTrial, load_space
from search_spaces.distributions import layouts_of
from surgery.architecture import Architecture
from surgery.architecture.layout import PLACEMENTS, layout_from_ratio
from surgery.config.backbone import PROJECTIONS
from surgery.config.problems import UserError
from tests.search_spaces.spaces import every_trial, searches, space_of
from tests.strategies import architectures

SEEDS = st.integers(0, 10**6)
HDPL = {"hdpl.projections": {"subset": ["q", "gate"]}, "hdpl.blocks": {"choice": [2, 4]}, "hdpl.rank": {"choice": [8, 32]}}  # fmt: skip # noqa: E501


@given(searches(), SEEDS)
def test_a_sample_is_a_valid_architecture_and_its_parameters_are_found_again(
    search: dict[str, Any], seed: int
) -> None:
    space = space_of(search)
    trial = RandomTrial(seed)
    drawn = space.sample(trial)
    assert Architecture.from_dict(drawn.to_dict()) == drawn  # passes every check that a user's file meets
    params = space.params_of(drawn)
    assert params is not None
    again = ReplayTrial(params)
    assert space.sample(again).hash == drawn.hash
    assert again.params == params
    assert space.sample(ReplayTrial(trial.params)).hash == drawn.hash
    assert space.sample_random(seed).hash == drawn.hash


@given(searches())
@settings(max_examples=30)
def test_size_counts_every_setting_once(search: dict[str, Any]) -> None:
    space = space_of(search)
    assume(space.size().count <= 3000)
    settings_seen = [tuple(sorted(params.items())) for params, _ in every_trial(space)]
    assert len(set(settings_seen)) == len(settings_seen) == space.size().count


@given(architectures())
def test_an_architecture_of_another_backbone_is_not_in_the_space(other: Architecture) -> None:
    assert space_of({"loop.count": {"range": [1, 3]}}).params_of(other) is None


def test_layers_without_mixing_and_heads_of_keys_can_be_searched() -> None:
    space = space_of({
        "mixers.ratio": {"full": [1, 2], "none": [0, 2]}, "mixers.full.kv_heads": {"choice": [0, 1]},
    })  # fmt: skip
    drawn = [architecture for _, architecture in every_trial(space)]
    assert {frozenset(architecture.layout) for architecture in drawn} == {frozenset("F"), frozenset("FN")}
    assert all(space.params_of(architecture) is not None for architecture in drawn)


@pytest.mark.parametrize("preset", ["tiny", "sprint", "hybrid", "hdpl"])
def test_presets_have_a_mixer_in_every_layer(preset: str) -> None:
    space = load_space(preset)
    assert not any("N" in space.sample(RandomTrial(seed)).layout for seed in range(20))


def test_fields_without_effect_are_not_drawn() -> None:
    extra = {"hdpl.layers": {"choice": ["all", "0-1"]}, "loop.count": {"choice": [1, 2]}}
    space = space_of({**HDPL, **extra})
    projections = {"hdpl.projections.q", "hdpl.projections.gate"}
    for params, architecture in every_trial(space):
        assert projections | {"loop.count"} <= set(params)
        rest = set(params) - projections - {"loop.count"}
        hybrid = params["hdpl.projections.q"] or params["hdpl.projections.gate"]
        assert rest == ({"hdpl.blocks", "hdpl.rank", "hdpl.layers"} if hybrid else set())
        assert bool(architecture.rules) == hybrid


def test_fixed_fields_ask_the_sampler_nothing() -> None:
    space = space_of(
        {**HDPL, "hdpl.projections": "all", "hdpl.kl": "mean", "hdpl.blocks": 2, "loop.count": 3}
    )
    params, architecture = next(every_trial(space))
    assert set(params) == {"hdpl.rank"}
    assert architecture.loop_count == 3
    assert architecture.rules[0].match == PROJECTIONS
    assert architecture.rules[0].options["kl"] == "mean"


@pytest.mark.parametrize("weight", [{"log": [1e-2, 1e-1]}, {"choice": [0.05, 0.02]}, 0.03])
def test_a_dead_kl_weight_is_not_drawn(weight: Any) -> None:
    search = {
        **HDPL,
        "hdpl.projections": ["q"],
        "hdpl.kl": {"choice": ["reference", "mean"]},
        "hdpl.kl_weight": weight,
    }
    space = space_of(search)
    for params, architecture in every_trial(space):
        dead = params["hdpl.kl"] == "reference" and params["hdpl.rank"] == 32
        assert ("hdpl.kl_weight" in params) == (not dead and isinstance(weight, dict))
        assert 0.01 <= architecture.rules[0].options["kl_weight"] <= 0.1
        assert space.params_of(architecture) == params
    assert ["kl_weight is idle in part of this space" in text for text in space.warnings()] == [True]


def test_sizes_left_out_follow_searched_ones() -> None:
    backbone = {"vocab_size": 512, "dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48}
    space = space_of({"backbone.num_heads": {"choice": [2, 4, 8]}}, backbone=backbone)
    shapes = [
        (a.backbone.num_heads, a.backbone.num_kv_heads, a.backbone.head_dim) for _, a in every_trial(space)
    ]
    assert shapes == [(2, 2, 16), (4, 4, 8), (8, 8, 4)]
    assert space.baselines["dense"].backbone == space.backbone


def test_optuna_trials_fit() -> None:
    space = load_space("tiny")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        trial = study.ask()
        drawn = space.sample(trial)
        result = space.params_of(drawn)
        assert result is not None
        assert result.keys() == trial.params.keys()  # values may differ: 1:1 and 2:2 are the same ratio
        assert space.sample(ReplayTrial(result)) == drawn
        study.tell(trial, 0.0)
    study.enqueue_trial(space.params_of(space.baselines["dense"]) or {})
    assert space.sample(study.ask()).hash == space.baselines["dense"].hash


class TestMixers:
    """Ratios, placements and layouts."""

    RATIO = {"gdn": [0, 3], "full": [0, 2], "sparse": 1}

    def test_the_full_mixer_is_the_placed_one_wherever_it_stands(self) -> None:
        space = space_of(
            {"mixers.ratio": {"gdn": 3, "full": 1}, "mixers.placement": {"choice": list(PLACEMENTS)}}
        )
        layouts = {params["mixers.placement"]: a.layout for params, a in every_trial(space)}
        assert layouts == {"interleave": "GGGF", "bookend": "FGGF", "front": "FGGG", "back": "GGGF"}

    def test_placement_is_only_drawn_when_there_is_something_to_place(self) -> None:
        space = space_of({"mixers.ratio": self.RATIO, "mixers.placement": {"choice": list(PLACEMENTS)}})
        for params, architecture in every_trial(space):
            shares = (params["mixers.ratio.full"], params["mixers.ratio.gdn"])
            assert ("mixers.placement" in params) == (shares[0] > 0)
            ratio = {"F": shares[0], "G": shares[1], "S": 1}
            expected = layout_from_ratio(ratio, params.get("mixers.placement", "interleave"), 4)
            assert architecture.layout == expected

    def test_all_zero_shares_are_read_as_equal_ones(self) -> None:
        space = space_of({"mixers.ratio": {"full": [0, 2], "gdn": [0, 2], "sparse": 0}})
        by_shares = {tuple(params.values()): a.layout for params, a in every_trial(space)}
        assert (
            by_shares[0, 0]
            == by_shares[1, 1]
            == by_shares[2, 2]
            == layout_from_ratio({"F": 1, "G": 1}, "interleave", 4)
        )
        assert space.size().count == 5  # 0:1 1:0 1:1 1:2 2:1

    def test_every_ratio_is_found_again(self) -> None:
        search = {
            "mixers.ratio": {"full": [0, 3], "gdn": [0, 3], "sparse": [0, 1]},
            "mixers.placement": {"choice": ["back", "bookend"]},
            "mixers.gdn.expand_v": {"choice": [1, 2]},
            "backbone.num_layers": {"choice": [4, 7]},
            **HDPL,
            "hdpl.projections": {"subset": ["q", "v"]},
        }
        space = space_of(search)
        for params, architecture in islice(every_trial(space), 0, None, 7):
            assert ("mixers.gdn.expand_v" in params) == ("G" in architecture.layout)
            assert Architecture.from_dict(architecture.to_dict()) == architecture
            result = space.params_of(architecture)
            assert result is not None
            assert space.sample(ReplayTrial(result)).hash == architecture.hash

    def test_layouts_of_a_ratio_name_their_first_draw(self) -> None:
        space = space_of({"mixers.ratio": self.RATIO, "mixers.placement": {"choice": list(PLACEMENTS)}})
        ratio: Any = space.search["mixers.ratio"]
        result = layouts_of(ratio, PLACEMENTS, 6)
        for layout, (shares, placement) in result.items():
            assert layout_from_ratio(dict(shares), placement or "interleave", 6) == layout

    def test_baselines_cut_to_the_depth(self) -> None:
        names = ["lt2-gdn", "lt2-full-gdn", "lt2-gdn-dsa"]
        search = {"loop.count": {"choice": [1, 4]}, "layout": {"choice": ["F", "GGGF"]}}
        space = space_of(search, baselines=names)
        assert [a.layout for a in space.baselines.values()] == ["GGGG", "GGGF", "GGGS"]
        assert not any(space.params_of(a) for a in space.baselines.values())  # the papers' own options
        search |= {"mixers.full.gate": True, "mixers.gdn.key_ratio": {"choice": [0.5, 0.75]}}
        space = space_of(search, baselines=names)
        assert [space.params_of(a) is not None for a in space.baselines.values()] == [False, True, False]

    def test_operators_are_checked_against_every_size_a_mixer_may_have(self) -> None:
        search = {"layout": {"choice": ["F", "G"]}, **HDPL, "hdpl.projections": {"subset": ["v"]}}
        search |= {"hdpl.blocks": 64, "mixers.gdn.expand_v": {"choice": [1, 4]}}
        with pytest.raises(UserError, match=r"v \(32 -> 32\).*values that fit: 1, 2, 4, 8, 16, 32"):
            space_of(search)
        with pytest.raises(UserError, match="no architecture here has Gated DeltaNet"):
            space_of({"layout": {"choice": ["F", "FF"]}, "mixers.gdn.expand_v": {"choice": [1, 2]}})

    def test_windows_are_only_drawn_in_a_loop_with_attention_and_found_again(self) -> None:
        schedules = ["none", [4, 8, 16, "full"], ["full", "full"], [2]]
        search = {
            "layout": {"choice": ["G", "GF", "W"]}, "loop.count": {"choice": [1, 2, 4]},
            "loop.windows": {"choice": schedules},
        }  # fmt: skip
        space = space_of(search)
        windows = set()
        for params, architecture in every_trial(space):
            matters = architecture.loop_count > 1 and set(architecture.layout) != {"G"}
            assert ("loop.windows" in params) == matters
            windows.add(architecture.loop_windows)
            result = space.params_of(architecture)
            assert result is not None
            assert space.sample(ReplayTrial(result)).hash == architecture.hash
        assert windows == {(), (8, None), (4, 8, 16, None), (2, 2), (2, 2, 2, 2)}

    def test_a_span_is_only_drawn_in_a_loop_and_found_again_however_it_is_written(self) -> None:
        search = {
            "loop.count": {"choice": [1, 2]}, "loop.span": {"choice": ["all", "0", "0--2"]},
            "loop.inject": {"choice": [False, True]}, "loop.delta_rank": {"choice": [0, 4]},
        }  # fmt: skip
        space = space_of(search)
        spans = set()
        for params, architecture in every_trial(space):
            assert ("loop.span" in params) == ("loop.inject" in params) == (architecture.loop_count > 1)
            assert ("loop.delta_rank" in params) == (architecture.loop_count > 1)
            spans.add((architecture.looped, architecture.loop_inject))
            written_out = Architecture.from_dict(architecture.to_dict())
            result = space.params_of(written_out)
            assert result is not None
            assert space.sample(ReplayTrial(result)).hash == architecture.hash
        depth = space.backbone.num_layers
        assert {len(span) for span, _ in spans} == {depth, 1, depth - 1}

    def test_spans_that_do_not_fit_every_depth_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"loop.span.*layer 77 does not exist"):
            space_of({"loop.count": 2, "loop.span": {"choice": ["all", "1-77"]}})
        with pytest.raises(UserError, match="leaves out layers between 0 and"):
            space_of({"loop.count": 2, "loop.span": {"choice": ["0,-1"]}})
