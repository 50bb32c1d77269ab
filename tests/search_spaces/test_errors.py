"""All mistakes in a space file are reported at once: line, field, value, rule and fix."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import parse_space
from surgery.config.problems import Problem, UserError

GOOD = """\
name: good
backbone: {vocab_size: 512, dim: 32, num_layers: 4, num_heads: 4, ffn_dim: 48}
search:
  hdpl.projections: {subset: [q, k, gate]}
  hdpl.blocks: {choice: [2, 4]}
  hdpl.rank: {choice: [8, 16]}
  loop.count: {range: [1, 3]}
constraints: ["params <= 200k"]
objectives: {val_loss: min, params: min}
baselines: [dense]
proxy: {tokens: 100k, seq_len: 64, batch_tokens: 1024}
data: {corpus: builtin, tokenizer: "bpe:512"}
"""


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(UserError) as caught:
        parse_space(text, "space.yaml")
    assert "space.yaml" in caught.value.title
    return caught.value.problems


def problem_of(text: str) -> Problem:
    problems = problems_of(text)
    assert len(problems) == 1, problems
    return problems[0]


def line(number: int, text: str) -> str:
    """GOOD with another line."""
    lines = GOOD.splitlines()
    lines[number - 1] = text
    return "\n".join(lines)


def test_good_is_good() -> None:
    assert parse_space(GOOD).name == "good"


SEARCH_LINE = 3


def read_mistakes() -> list[tuple[int, str, str, str, str]]:
    """Return (line, text that stands there, field of the problem, part of its rule, part of its hint)."""
    text = Path(__file__).with_name("mistakes.txt").read_text(encoding="utf-8")
    rows = [row.split(" | ") for row in text.splitlines() if not row.startswith("#")]
    return [(int(row[0]), row[1], row[2], row[3], row[4] if len(row) > 4 else "") for row in rows]


CASES = read_mistakes()


@pytest.mark.parametrize(
    ("number", "text", "field", "rule", "hint"), CASES, ids=[case[1].strip() for case in CASES]
)
def test_one_mistake(number: int, text: str, field: str, rule: str, hint: str) -> None:
    problem = problem_of(line(number, text))
    assert problem.field == field
    assert rule in problem.rule
    assert hint in problem.hint
    absent = field.startswith("search") and "is missing" in rule
    assert problem.line == (SEARCH_LINE if absent else number)


@given(st.sets(st.sampled_from(range(len(CASES))), min_size=2, max_size=6))
def test_mistakes_of_different_lines_come_together(picked: set[int]) -> None:
    """A line's mistake is reported whatever is wrong elsewhere, unless it takes other lines to see it."""
    chosen = {CASES[index][0]: CASES[index] for index in sorted(picked)}
    lines = GOOD.splitlines()
    for number, case in chosen.items():
        lines[number - 1] = case[1]
    result = {(problem.field, problem.line) for problem in problems_of("\n".join(lines))}
    for number, _, field, rule, _ in chosen.values():
        if not any(part in rule for part in NEEDS_OTHERS):
            assert (field, number) in result


NEEDS_OTHERS = (
    "divide", "gate (32", "missing", "layer 9", "letters for", "must be even", "vocab_size (", "reaches from",
    "none of 2000", "without mixers.ratio",
)  # fmt: skip


def test_problems_stand_in_the_order_of_the_file() -> None:
    text = (
        line(9, "objectives: {}").replace("{range: [1, 3]}", "{range: [3, 1]}").replace("[dense]", "[dens]")
    )
    assert [problem.line for problem in problems_of(text)] == [7, 9, 10]


def test_baselines_that_do_not_suit_the_backbone_are_refused_by_name() -> None:
    text = line(10, "baselines: [dense, gka, gka-hybrid]").replace("head_dim: ", "head_dim: ")
    problems = problems_of(text.replace("num_heads: 4", "num_heads: 4, head_dim: 6"))
    assert [problem.value for problem in problems] == ["gka", "gka-hybrid"]
    assert all("to be a multiple of head_dim (6)" in problem.rule for problem in problems)


def test_placement_without_a_second_mixer_has_no_effect() -> None:
    text = line(7, "  mixers.ratio: {full: [1, 2]}\n  mixers.placement: {choice: [front, back]}")
    assert "has no effect" in problem_of(text).rule


def test_a_faulty_ratio_makes_no_options_of_its_mixers_faulty() -> None:
    ratio = "  mixers.ratio: {full: [1, 2], gnd: [0, 1], kda: [0, 1]}"
    options = ["  mixers.gdn.key_ratio: {choice: [0.5, 0.75]}", "  mixers.kda.expand_v: {choice: [1, 2]}"]
    assert problem_of(line(7, "\n".join([ratio, *options]))).field == "search.mixers.ratio.gnd"
    fine = line(7, "\n".join([ratio.replace("gnd", "gdn").replace("kda", "window"), *options]))
    assert problem_of(fine).field == "search.mixers.kda.expand_v"


def test_layout_and_ratio_exclude_each_other() -> None:
    problem = problem_of(line(7, "  layout: {choice: [F, FF]}\n  mixers.ratio: {full: [1, 2]}"))
    assert (problem.field, problem.line) == ("search.layout", 7)


@pytest.mark.parametrize(
    ("search", "rule"),
    [
        ("", "has no fields to search"),
        ("  loop.count: 2\n", "nothing varies"),
        ("  hdpl.rank: {choice: [8, 9]}\n", "without"),
    ],
)
def test_a_search_of_nothing(search: str, rule: str) -> None:
    lines = GOOD.splitlines(keepends=True)
    assert rule in problem_of("".join([*lines[:3], search, *lines[7:]])).rule


@pytest.mark.parametrize(
    "text", ["", "- 1", "just text", "3", "search: 3\nbackbone: 7\nobjectives: 3\nproxy: []"]
)
def test_files_that_are_no_space(text: str) -> None:
    fields = {problem.field for problem in problems_of(text)}
    assert "search" in fields
    assert "objectives" in fields


@pytest.mark.parametrize("text", ["{", "a: b: c", "a: 1\na: 2", "\t- x"])
def test_files_that_are_no_yaml(text: str) -> None:
    assert problems_of(text)


SECTIONS = ["name", "backbone", "search", "constraints", "objectives", "baselines", "proxy", "data"]
SEARCHED = [
    "hdpl.projections", "hdpl.blocks", "hdpl.kl_weight", "hdpl.layers", "mixers.ratio", "mixers.placement",
    "layout", "loop.count", "backbone.dim", "backbone.head_dim",
]  # fmt: skip
KEYS = st.sampled_from(["choice", "range", "log", "subset", "step", "full", "gdn"])
LEAVES = st.none() | st.booleans() | st.integers(-9, 99) | st.floats() | st.text("abq-:@0", max_size=5)
JUNK = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(SECTIONS), JUNK, max_size=3),
    st.dictionaries(st.sampled_from(SEARCHED), JUNK, max_size=4),
)
def test_junk_never_ends_in_a_traceback(sections: dict[str, object], search: dict[str, object]) -> None:
    data = yaml.safe_load(GOOD)
    data["search"] |= search
    data |= sections
    with contextlib.suppress(UserError):
        parse_space(yaml.safe_dump(data))
