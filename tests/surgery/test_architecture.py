"""An architecture: read, written, hashed, named; all mistakes in its file reported at once."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.architecture import Architecture
from surgery.config.backbone import PROJECTIONS
from surgery.config.problems import UserError
from surgery.config.yaml_source import load_yaml
from tests.strategies import architecture_data, architectures, respellings

# the paper's hybrid (docs/papers.md, HDPL)
EXAMPLE = """\
backbone: {vocab_size: 49152, dim: 512, num_layers: 4, num_heads: 8, num_kv_heads: 8, head_dim: 64,
ffn_dim: 2048,
           rope_theta: 500000, norm_eps: 1.0e-6, tie_embeddings: false}
layout: FFFF
mixers: {G: {expand_v: 2, conv_size: 4}, W: {window: 256}, S: {top_k: 64}, K: {}}
projections:                    # ordered rules, first match wins; `layers` optional
  - {match: [q, k, v, gate, up], operator: hdpl, blocks: 8, rank: 128, kl_weight: 1.0e-3, kl: reference}
  - {match: all, operator: dense}
loop: {count: 1}
"""
SMALL: dict[str, Any] = {
    "backbone": {"vocab_size": 10, "dim": 8, "num_layers": 4, "num_heads": 2, "ffn_dim": 12},
    "layout": "F",
    "projections": [{"match": ["q", "up"], "operator": "hdpl", "blocks": 2, "rank": 3}],
}


def from_text(text: str) -> Architecture:
    source = load_yaml("arch.yaml", text=text)
    return Architecture.from_dict(source.data, source=source)


def with_(path: str, value: object, base: dict[str, Any] = SMALL) -> dict[str, Any]:
    """A copy of plain data with one value changed; `...` removes it."""
    data = copy.deepcopy(base)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    inner: Any = data
    for key in parents:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return data


def problems_of(data: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        Architecture.from_dict(data)
    return [str(problem) for problem in caught.value.problems]


# -- in and out


@given(architectures())
def test_written_and_read_back_it_is_the_same(arch: Architecture) -> None:
    again = from_text(arch.to_yaml())
    assert again == arch
    assert again.hash == arch.hash
    assert again.line == arch.line
    assert again.to_dict() == arch.to_dict()
    assert Architecture.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch


@given(architecture_data())
def test_reading_changes_nothing_of_what_it_is_given(data: dict[str, Any]) -> None:
    before = copy.deepcopy(data)
    arch = Architecture.from_dict(data)
    arch.to_dict()["backbone"].clear()
    assert data == before


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "architecture.yaml"
    path.write_text(EXAMPLE, encoding="utf-8")
    assert Architecture.from_yaml(path) == from_text(EXAMPLE)
    path.write_text("backbone: [", encoding="utf-8")
    with pytest.raises(UserError, match="is not valid YAML"):
        Architecture.from_yaml(path)


def test_it_is_frozen_hashable_and_crosses_processes() -> None:
    arch = from_text(EXAMPLE)
    for target, name in [(arch, "layout"), (arch.backbone, "dim"), (arch.rules[0], "layers")]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(target, name, "F")
    assert {arch, from_text(EXAMPLE)} == {arch}
    assert pickle.loads(pickle.dumps(arch)) == copy.deepcopy(arch) == arch
    assert arch != "FFFF"


def test_a_backbone_from_elsewhere_is_used_where_the_file_has_none() -> None:
    backbone = Architecture.from_dict(SMALL).backbone
    assert Architecture.from_dict(with_("backbone", ...), backbone=backbone) == Architecture.from_dict(SMALL)


def test_defaults_of_the_backbone() -> None:
    backbone = Architecture.from_dict(SMALL).backbone
    assert (backbone.num_kv_heads, backbone.head_dim) == (2, 4)
    assert not backbone.tie_embeddings
    assert backbone.biases == ()
    assert Architecture.from_dict(with_("backbone.biases", "all")).backbone.biases == PROJECTIONS
    assert Architecture.from_dict(with_("backbone.biases", None)).backbone.biases == ()
    assert Architecture.from_dict(with_("layout", "F")).layout == "FFFF"


# -- one model, one hash


@given(st.data())
def test_every_spelling_of_a_model_has_its_hash(data: st.DataObject) -> None:
    arch = data.draw(architectures())
    again = Architecture.from_dict(data.draw(respellings(arch)))
    assert again.hash == arch.hash
    assert again == arch
    assert len(arch.hash) == 10
    int(arch.hash, 16)


HDPL = SMALL["projections"][0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(SMALL, with_("layout", "FFFF"), id="layout tiled"),
        pytest.param(SMALL, with_("projections.0.match", ["up", "q"]), id="match order"),
        pytest.param(SMALL, with_("projections.0.layers", "0-3"), id="all layers written out"),
        pytest.param(SMALL, with_("projections.0.layers", [3, -2, 0, 1]), id="layers as a list"),
        pytest.param(SMALL, with_("projections", [HDPL, {"match": "all", "operator": "dense"}]),
        id="dense rest"),
        pytest.param(
            SMALL,
            with_("projections", [{**HDPL, "match": "up"}, {**HDPL, "match": "q"}]),
            id="a rule split and reordered",
        ),
        pytest.param(
            with_("projections.0.match", list(PROJECTIONS)), with_("projections.0.match", "all"), id="all"
        ),
        pytest.param(
            with_("projections.0.kl_weight", 0),
            with_("projections.0", {**HDPL, "kl_weight": 0.0, "kl": "mean"}),
            id="form of a KL without weight",
        ),
        pytest.param(SMALL, with_("mixers", {"F": {}, "G": {"expand_v": 3}}),
        id="options of an absent mixer"),
        pytest.param(SMALL, with_("backbone.max_position_embeddings", 99), id="note for the export"),
        pytest.param(SMALL, with_("backbone.head_dim", 4), id="default head_dim"),
        pytest.param(SMALL, with_("backbone.rope_theta", 10000), id="default written as a whole number"),
        pytest.param(SMALL, with_("loop", {"count": 1}), id="one loop"),
        pytest.param(SMALL, with_("backbone.rope_scaling", {"rope_type": "default"}), id="plain rope"),
        pytest.param(
            SMALL, with_("backbone.rope_scaling", {"rope_type": "linear", "factor": 1}), id="scaling by one"
        ),
        pytest.param(
            with_("backbone.rope_scaling",
                  {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32}),
            with_("backbone.rope_scaling",
                  {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
                  "beta_fast": 32,
                   "beta_slow": 1.0, "truncate": True, "mscale": None}),
            id="yarn's defaults",
        ),
    ],
)  # fmt: skip
def test_same_model(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert Architecture.from_dict(one).canonical() == Architecture.from_dict(other).canonical()
    assert Architecture.from_dict(one) == Architecture.from_dict(other)


DIFFERENT = [
    SMALL,
    *(with_(f"backbone.{name}", value) for name, value in {
        "vocab_size": 11, "dim": 12, "num_layers": 5, "num_heads": 4, "num_kv_heads": 1, "head_dim": 6,
        "ffn_dim": 14,
        "rope_theta": 10001, "norm_eps": 1e-5, "tie_embeddings": True, "qk_norm": True, "biases": ["q"],
        "rope_scaling": {"rope_type": "linear", "factor": 2},
    }.items()),
    with_("backbone.biases", ["q", "up"]),
    with_("backbone.rope_scaling", {"rope_type": "linear", "factor": 3}),
    *(with_(f"projections.0.{name}", value) for name, value in {
        "match": ["q"], "blocks": 1, "rank": 4, "kl_weight": 0.5, "kl": "mean", "layers": "0-2",
    }.items()),
    with_("projections.0.kl", "free_bits"),
    with_("projections.0.layers", "1::2"),
    with_("projections.0.operator", "hdpl") | {"projections": []},
    with_("loop.count", 2),
    with_("loop.count", 3),
    with_("loop", {"count": 2, "span": "1-2"}),
    with_("loop", {"count": 2, "span": "1"}),
    with_("loop", {"count": 2, "span": "1", "inject": True}),
    with_("loop", {"count": 2, "inject": True}),
    with_("loop", {"count": 2, "delta_rank": 4}),
]  # fmt: skip


def test_different_models_have_different_hashes() -> None:
    hashes = [Architecture.from_dict(data).hash for data in DIFFERENT]
    assert len(set(hashes)) == len(hashes)


def test_the_first_matching_rule_wins() -> None:
    rules = [
        {"match": ["q"], "operator": "dense", "layers": "0"},
        {"match": ["q", "k"], "operator": "hdpl", "blocks": 2, "rank": 3, "layers": "0-1"},
        {"match": "all", "operator": "hdpl", "blocks": 1, "rank": 2, "layers": "1"},
        {"match": "all", "operator": "dense"},
    ]
    arch = Architecture.from_dict(with_("projections", rules))
    result = [
        "".join(
            {"dense": "d", "hdpl": str(item.options.get("rank"))}[item.name]
            for item in layer.projections.values()
        )
        for layer in arch.layers
    ]
    assert result == ["d3ddddd", "3322222", "ddddddd", "ddddddd"]
    assert arch.rule_matches() == [1, 3, 5, 19]


# -- names


def test_line_of_the_example() -> None:
    assert from_text(EXAMPLE).line == "FFFF·hdpl[qkv,gu] b8 r128"
    assert str(from_text(EXAMPLE.replace("count: 1", "count: 2"))) == "FFFF·hdpl[qkv,gu] b8 r128·loop 2"


def test_lines_and_spellings_of_a_span() -> None:
    def looped(**loop: Any) -> Architecture:
        return Architecture.from_dict(with_("loop", {"count": 2, **loop}))

    depth = SMALL["backbone"]["num_layers"]
    assert looped(span="1", inject=True).line.endswith("·loop 2@1 inject")
    assert looped(delta_rank=8).line.endswith("·loop 2 delta 8")
    assert looped(span=f"1-{depth - 1}").line.endswith(f"·loop 2@1-{depth - 1}")
    assert looped(span="1-2").hash == looped(span="1:3").hash
    assert looped(span=f"0-{depth - 1}").hash == looped(span="all").hash == looped().hash
    once = with_("loop", {"count": 1, "span": "1", "inject": True, "delta_rank": 4})
    assert Architecture.from_dict(once).hash == Architecture.from_dict(SMALL).hash


def deep(depth: int, rules: list[dict[str, Any]], loops: int = 1) -> str:
    data = with_("backbone.num_layers", depth) | {"projections": rules, "loop": {"count": loops}}
    return Architecture.from_dict(data).line


@pytest.mark.parametrize(
    ("line", "depth", "rules", "loops"),
    [
        ("F·dense", 1, [], 1),
        ("F×30·dense·loop 4", 30, [], 4),
        ("F×30·hdpl[o,d] b2 r4", 30, [{"match": ["o", "down"], "rank": 4}], 1),
        ("F×30·hdpl[qkvo,gud]@1::2 b2 r4", 30, [{"match": "all", "rank": 4, "layers": "1::2"}], 1),
        ("F×30·hdpl[q]@0-4,29 b2 r4", 30, [{"match": "q", "rank": 4, "layers": "0-4,-1"}], 1),
        ("F×30·hdpl[q]@0-9 b2 r4·hdpl[q]@10-29 b2 r5", 30,
         [{"match": "q", "rank": 4, "layers": "0-9"}, {"match": "q", "rank": 5}], 1),
        ("FFFF·hdpl[q,g]@0-1 [q]@2-3 b2 r4", 4,
         [{"match": ["q"], "rank": 4}, {"match": "gate", "rank": 4, "layers": "0-1"}], 1),
        ("FFFF·hdpl[q] b2 r4 mean:0.5", 4, [{"match": "q", "rank": 4, "kl": "mean", "kl_weight": 0.5}], 1),
        ("FFFF·hdpl[q] b2 r4", 4, [{"match": "q", "rank": 4, "kl": "mean", "kl_weight": 0}], 1),
    ],
)  # fmt: skip
def test_lines(line: str, depth: int, rules: list[dict[str, Any]], loops: int) -> None:
    assert deep(depth, [{"operator": "hdpl", "blocks": 2, **rule} for rule in rules], loops) == line


@given(architectures())
def test_lines_are_short_and_name_the_layout(arch: Architecture) -> None:
    assert arch.line.startswith(arch.layout)
    assert "\n" not in arch.line
    assert (f"·loop {arch.loop_count}" in arch.line) == (arch.loop_count > 1)


def test_dead_knobs_are_named() -> None:
    (warning,) = from_text(EXAMPLE).warnings()
    assert "kl_weight has no effect: at rank 128" in warning
    assert from_text(EXAMPLE.replace("kl: reference", "kl: mean")).warnings() == []
    assert from_text(EXAMPLE.replace("kl_weight: 1.0e-3", "kl_weight: 0")).warnings() == []


# -- mistakes


def test_every_mistake_of_a_file_at_once_with_its_line() -> None:
    text = """\
backbone:
  vocab_size: 100
  dim: 64
  num_layer: 4
  num_heads: three
  ffn_dim: 128
  biases: [q, gate_proj]
  rope_scaling: {rope_type: yarn, factor: -1, beta_fast: many}
layout: FXY
mixer: {}
projections:
  - {match: [q, w], operator: hdpl, blocks: 8, rank: 0}
  - {match: all, operator: hdlp}
loop: {count: 0}
"""
    with pytest.raises(UserError) as caught:
        from_text(text)
    result = [(problem.line, problem.field) for problem in caught.value.problems]
    assert set(result) == {
        (4, "backbone.num_layer"), (1, "backbone.num_layers"), (5, "backbone.num_heads"),
        (7, "backbone.biases"),
        (8, "backbone.rope_scaling.factor"), (8, "backbone.rope_scaling.beta_fast"),
        (8, "backbone.rope_scaling.original_max_position_embeddings"), (9, "layout"), (10, "mixer"),
        (12, "projections[0].match"), (12, "projections[0].rank"), (13, "projections[1].operator"),
        (14, "loop.count"),
    }  # fmt: skip
    assert len(result) == 14  # layout twice
    message = str(caught.value)
    assert message.startswith("arch.yaml: not a valid architecture\n")
    for hint in (
        'did you mean "num_layers"?',
        'did you mean "mixers"?',
        'did you mean "hdpl"?',
        "'X' is not a mixer",
    ):
        assert hint in message


def test_parts_that_do_not_fit_are_told_beside_other_mistakes() -> None:
    result = "\n".join(problems_of(with_("projections.0.blocks", 5) | {"loop": {"count": 0}, "lop": {}}))
    fit = "projections[0].blocks = 5: must divide both 8 and"
    assert f"{fit} 8; the next lower divisor is 4 (projection q)" in result
    assert f"{fit} 12; the next lower divisor is 4 (projection up)" in result
    assert "loop.count = 0: must be at least 1" in result
    assert "lop: is not a field here" in result


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (None, "backbone: is missing"),
        ("text", "must be a mapping of fields"),
        ([], "must be a mapping of fields"),
        (with_("backbone", None), "backbone.vocab_size: is missing"),
        (with_("backbone.dim", 9), "backbone.num_heads = 2: must divide dim (9) (or give head_dim yourself)"),
        (with_("backbone.dim", 6), "backbone.head_dim = 3: must be even"),
        (with_("backbone.head_dim", 0), "backbone.head_dim = 0: must be at least 2"),
        (with_("backbone.num_kv_heads", 3), "backbone.num_kv_heads = 3: must divide num_heads (2)"),
        (with_("backbone.dim", 8.5), "backbone.dim = 8.5: must be a whole number"),
        (with_("backbone.dim", True), "backbone.dim = True: must be a whole number"),
        (with_("backbone.dim", "8"), "backbone.dim = '8': must be a whole number"),
        (with_("backbone.dim", float("inf")), "must be a whole number"),
        (with_("backbone.dim", 10**400), "must be a whole number"),
        (with_("backbone.num_layers", 10**9), "backbone.num_layers = 1000000000: must be at most"),
        (with_("backbone.tie_embeddings", "yes"), "must be true or false"),
        (with_("backbone.biases", ["w"]), "backbone.biases = 'w'"),
        (with_("backbone.rope_scaling", 3), "must be a mapping"),
        (with_("backbone.rope_scaling", {"rope_type": ["yarn"]}), "rope_type = ['yarn']: must be one of"),
        (with_("backbone.rope_scaling", {"rope_type": "dynamic"}),
        "must be one of default, linear, llama3, yarn"),
        (with_("backbone.rope_scaling", {"rope_type": "linear"}), "factor: must be a positive number"),
        (with_("backbone.rope_scaling", {"rope_type": "linear", "factor": float("inf")}),
        "must be a positive"),
        (with_("backbone.rope_scaling", {"rope_type": "linear", "factor": 2, "low": 1}),
        "low: is not a field"),
        (with_("backbone.rope_scaling", {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4,
                                         "high_freq_factor": 4, "original_max_position_embeddings": 8}),
         "must be below high_freq_factor"),
        (with_("layout", ""), "must be a string of mixer letters"),
        (with_("layout", 7), "must be a string of mixer letters"),
        (with_("layout", ["F"]), "must be a string of mixer letters"),
        (with_("layout", "F" * 5), "has 5 letters for 4 layers"),
        (with_("layout", "f"), "'f' is not a mixer"),
        (with_("mixers", {"F": {"window": 3}}), "mixers.F.window: is not a field here"),
        (with_("mixers", {"Q": {}}), "mixers.Q: is not a field here"),
        (with_("mixers", []), "mixers = []: must be a mapping of fields"),
        (with_("projections", {}), "must be a list of rules"),
        (with_("projections", [None]), "projections[0].operator"),
        (with_("projections.0.layers", "0-4"), "projections[0].layers = '0-4': layer 4 does not exist"),
        (with_("projections", [HDPL, HDPL]), "projections[1] = 'q up': matches no projection"),
        (with_("loop", 3), "loop = 3: must be a mapping of fields"),
        (with_("loop.count", 65), "must be at most 64"),
        (with_("loop.count", True), "must be a whole number"),
        (with_("loop.times", 2), "loop.times: is not a field here"),
        (with_("loop", {"count": 2, "span": "1-9"}), "loop.span = '1-9': layer 9 does not exist"),
        (with_("loop", {"count": 2, "span": "0,2"}), "loop.span = '0,2': '0,2' leaves out layers between 0"),
        (with_("loop", {"count": 2, "inject": 1}), "loop.inject = 1: must be true or false"),
        (with_("loop", {"count": 2, "delta_rank": -1}), "loop.delta_rank = -1: must be"),
    ],
)  # fmt: skip
def test_mistakes(data: object, problem: str) -> None:
    result = problems_of(data)
    assert any(problem in text for text in result), result


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.sampled_from(["all", "q", "F", "hdpl", "dense", "yarn", "0-1", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(),
    inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
PLACES = [
    "backbone", "layout", "mixers", "projections", "loop", "projections.0", "mixers.F", "loop.count",
    *(f"backbone.{name}" for name in (
        "vocab_size", "dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "rope_theta", "norm_eps",
        "qk_norm", "biases", "rope_scaling", "rope_scaling.rope_type", "rope_scaling.factor",
    )),
    *(f"projections.0.{name}" for name in (
        "match", "operator", "layers", "blocks", "rank", "kl", "kl_weight",
    )),
]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=3))
def test_junk_is_read_or_refused_but_never_crashes(changes: list[tuple[str, Any]]) -> None:
    data: Any = with_("backbone.rope_scaling", {"rope_type": "linear", "factor": 2})
    for path, value in changes:
        try:
            data = with_(path, value, data)
        except (AttributeError, TypeError, IndexError, KeyError, ValueError):
            continue  # an earlier change has taken this place away
    with contextlib.suppress(UserError):
        arch = Architecture.from_dict(data)
        assert Architecture.from_dict(arch.to_dict()) == arch
