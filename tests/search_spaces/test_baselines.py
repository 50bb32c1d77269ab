"""Baselines on any backbone, and the counts of the HDPL paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from search_spaces import BASELINES, load_space, parse_space
from search_spaces.baselines import build_baseline
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from tests.strategies import backbones, read_backbone


def test_the_papers_models_have_its_parameters() -> None:
    baselines = load_space("hdpl").baselines
    assert cost(baselines["dense"], "params") == 67_113_472
    assert cost(baselines["hdpl-paper"], "params") == 62_531_072
    assert baselines["hdpl-paper"].line == "FFFF·hdpl[qkv,gu] b8 r128"
    assert baselines["lt2-looped"].line == "FFFF·dense·loop 4"


def test_designs_of_lt2_and_streamingllm_are_what_their_papers_say() -> None:
    backbone = read_backbone({"vocab_size": 512, "dim": 64, "num_layers": 10, "num_heads": 4, "ffn_dim": 128})
    bookend = build_baseline("lt2-bookend", backbone)
    assert bookend.layout == "FGGGGGGGGF"
    assert bookend.layout.count("F") == build_baseline("lt2-full-gdn", backbone).layout.count("F")
    assert bookend.loop_count == 4
    assert build_baseline("lt2-loop-window", backbone).loop_windows == (128, 256, 512, None)
    mamba = build_baseline("lt2-mamba2", backbone)
    assert cost(mamba, "cache_bytes@1") == 4 * 10 * (4 * 128 * 64 + 2 * 3 * (128 + 2 * 64))
    sinks = build_baseline("swa-sinks", backbone)
    token = 10 * 2 * 2 * 64  # keys and values of all layers in bfloat16
    assert [cost(sinks, f"cache_bytes@{context}") // token for context in (100, 260, 4096)] == [
        100,
        259,
        259,
    ]  # the window includes the query


@given(backbones(max_layers=6))
def test_every_baseline_fits_every_backbone(data: dict[str, Any]) -> None:
    backbone = read_backbone(data)
    for baseline in BASELINES.values():
        built = baseline.build(backbone)
        if "K" in built.layout and backbone.dim % backbone.head_dim:
            continue  # no whole heads in the stream
        assert Architecture.from_dict(built.to_dict()) == built
        assert len(built.layout) == backbone.num_layers


def test_rank_and_blocks_of_the_paper_follow_the_width() -> None:
    sizes = {"vocab_size": 512, "num_layers": 2, "num_heads": 4, "head_dim": 12}
    for dim, ffn_dim, blocks, rank in (
        (128, 384, 8, 32),
        (16, 48, 8, 8),
        (96, 180, 6, 24),
        (1024, 2048, 8, 256),
    ):
        heads = {"head_dim": dim // 4} if dim != 96 else {}
        backbone = read_backbone({**sizes, **heads, "dim": dim, "ffn_dim": ffn_dim})
        options = BASELINES["hdpl-paper"].build(backbone).rules[0].options
        assert (options["blocks"], options["rank"]) == (blocks, rank)


def test_baselines_of_a_space_are_in_the_order_of_the_file_and_known_to_the_sampler() -> None:
    space = load_space("hdpl")
    assert list(space.baselines) == ["dense", "hdpl-paper", "lt2-looped"]
    for architecture in space.baselines.values():
        assert architecture.backbone == space.backbone
        assert space.params_of(architecture) is not None


@given(backbones(max_layers=6), st.sampled_from(sorted(BASELINES)))
def test_matched_baselines_have_the_parameters_of_the_backbone(data: dict[str, Any], name: str) -> None:
    backbone = read_backbone(data | {"ffn_dim": 8 * data["ffn_dim"]})
    wanted = cost(BASELINES["dense"].build(backbone), "params")
    result = build_baseline(f"{name}-matched", backbone)
    assert (result.layout, result.loop_count) == (
        (plain := BASELINES[name].build(backbone)).layout,
        plain.loop_count,
    )
    missed = abs(cost(result, "params") - wanted)
    for width in range(8, 2 * result.backbone.ffn_dim + 16, 8):  # none of those it may have is nearer
        other = BASELINES[name].build(replace(backbone, ffn_dim=width))
        assert missed <= abs(cost(other, "params") - wanted)


def test_a_matched_baseline_is_nearest_where_its_blocks_change_with_the_width() -> None:
    """The common divisor of all sides is 3 at every third width only, so parameters don't grow with it."""
    sizes = {"vocab_size": 2, "dim": 3, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 6}
    backbone = read_backbone({**sizes, "ffn_dim": 224})
    wanted = cost(BASELINES["dense"].build(backbone), "params")
    result = build_baseline("hdpl-paper-matched", backbone)
    designs = [BASELINES["hdpl-paper"].build(replace(backbone, ffn_dim=8 * step)) for step in range(1, 60)]
    assert abs(cost(result, "params") - wanted) == min(abs(cost(item, "params") - wanted) for item in designs)


def test_a_matched_baseline_in_a_space_file() -> None:
    text = load_space("tiny").text.replace("lt2-full-gdn", "lt2-full-gdn-matched")
    space = parse_space(text)
    dense, matched = (cost(space.baselines[name], "params") for name in ("dense", "lt2-full-gdn-matched"))
    assert abs(matched / dense - 1) < 0.01
