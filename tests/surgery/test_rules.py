"""Layer selectors and projection rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.architecture.rules import Rule, read_match
from surgery.config.backbone import PROJECTIONS
from surgery.config.options import Cursor
from surgery.config.problems import Problems
from surgery.config.selector import select_layers, write_layers


@pytest.mark.parametrize(
    ("selector", "layers"),
    [
        (None, range(8)), ("0", [0]), ("-1", [7]), ("0-3,7", [0, 1, 2, 3, 7]), ("7, 0-3", [0, 1, 2, 3, 7]),
        ("0--1", range(8)), ("-2--1", [6, 7]), ("1::2", [1, 3, 5, 7]), (":", range(8)), (":3", [0, 1, 2]),
        ("5:", [5, 6, 7]), ("-2:", [6, 7]), ("1:7:3", [1, 4]), ("::4", [0, 4]), ("1,1,1-2", [1, 2]),
    ],
)  # fmt: skip
def test_selectors(selector: str | None, layers: Any) -> None:
    assert select_layers(selector, 8) == tuple(layers)


@pytest.mark.parametrize(
    ("selector", "rule"),
    [
        ("8", "layer 8 does not exist, the stack has 8"), ("-9", "layer -9 does not exist"),
        ("0-8", "layer 8"),
        ("3-1", "ends before it starts"), ("", "is not a layer"), ("1,,2", "is not a layer"),
        ("a", "is not a layer"),
        ("1-", "is not a layer"), ("-", "is not a layer"), ("1-3:2", "is not a layer"),
        ("1;2", "is not a layer"),
        ("5:2", "selects none"), ("::0", "zero"), ("1.5", "is not a layer"), ("all", "is not a layer"),
    ],
)  # fmt: skip
def test_refused_selectors(selector: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        select_layers(selector, 8)


@given(
    st.integers(1, 40).flatmap(
        lambda depth: st.tuples(st.just(depth), st.sets(st.integers(0, depth - 1), min_size=1))
    )
)
def test_writing_and_selecting_are_inverse(case: tuple[int, set[int]]) -> None:
    depth, chosen = case
    layers = tuple(sorted(chosen))
    assert select_layers(write_layers(layers, depth), depth) == layers
    for deeper in (depth, depth + 1, 3 * depth):  # the same layers in every stack
        assert select_layers(write_layers(layers, None), deeper) == layers


@pytest.mark.parametrize(
    ("layers", "text"),
    [(range(8), None), ([0, 1, 2], "0-2"), ([1, 3, 5, 7], "1::2"), ([1, 3, 5], "1:6:2"), ([0, 4], "0,4"),
     ([0, 1, 2, 5, 7], "0-2,5,7"), ([3], "3"), ([0, 3, 6], "0::3")],
)  # fmt: skip
def test_short_forms(layers: Any, text: str | None) -> None:
    assert write_layers(tuple(layers), 8) == text


def read_rule(data: object) -> tuple[Rule | None, list[str]]:
    problems = Problems()
    rule = Rule.read(data, Cursor(problems, None, ("projections", 0)))
    return rule, [str(problem) for problem in problems.entries]


@given(st.lists(st.sampled_from(PROJECTIONS), min_size=1), st.sampled_from([None, "0-1", "1::2"]))
def test_a_rule_survives_its_own_writing(match: list[str], layers: str | None) -> None:
    rule, problems = read_rule(
        {"match": match, "operator": "hdpl", "blocks": 2, "rank": 3, "kl": "mean", "layers": layers}
    )
    assert rule is not None
    assert problems == []
    assert rule.match == tuple(name for name in PROJECTIONS if name in match)
    assert rule.options == {"blocks": 2, "rank": 3, "kl": "mean", "kl_weight": 1e-3}
    assert read_rule(rule.to_dict()) == (rule, [])


@pytest.mark.parametrize(
    ("layers", "selector"),
    [(3, "3"), (-1, "-1"), ([0, 2], "0,2"), ("all", None), (None, None), ("1::2", "1::2")],
)
def test_spellings_of_layers(layers: object, selector: str | None) -> None:
    rule, problems = read_rule({"match": "q", "operator": "dense", "layers": layers})
    assert problems == []
    assert rule is not None
    assert rule.layers == selector


@pytest.mark.parametrize(
    "match", ["all", ["all"], list(PROJECTIONS), list(reversed(PROJECTIONS)), ["q", "all"]]
)
def test_all_projections(match: object) -> None:
    assert read_match(match, Cursor(Problems())) == PROJECTIONS


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("q", ["must be a mapping of fields", "match", "operator"]),
        ({"match": "q", "operator": "hdlp", "blocks": 2}, ['did you mean "hdpl"?']),
        ({"match": "q", "operator": ["hdpl"]}, ["operator = ['hdpl']: must be one of dense, hdpl"]),
        ({"match": ["gate_proj", "w"], "operator": "none", "layers": [True]},
         ['did you mean "gate"?', "match = 'w': must be 'all' or a list",
         "layers = [True]: must be a list of layers",
          "operator = 'none'"]),
        ({"match": [], "operator": "dense"}, ["must name at least one projection"]),
        ({"match": "q", "operator": "dense", "rank": 4}, ["projections[0].rank: is not a field here"]),
        ({"match": "q", "operator": "hdpl"}, ["blocks: is missing", "rank: is missing"]),
        ({"match": "q", "operator": "hdpl", "blocks": 0, "rank": 1.5, "kl": "max", "kl_weight": -1},
         ["blocks = 0: must be at least 1", "rank = 1.5: must be a whole number",
         "kl = 'max': must be one of reference",
          "kl_weight = -1: must be at least 0"]),
        ({"match": "q", "operator": "hdpl", "blocks": True, "rank": 10**400, "kl": 3,
        "kl_weight": float("nan")},
         ["blocks = True: must be a whole number", "rank", "kl = 3: must be one of", "kl_weight = nan"]),
    ],
)  # fmt: skip
def test_every_problem_of_a_rule_is_told(data: object, expected: list[str]) -> None:
    rule, problems = read_rule(data)
    assert rule is None
    assert len(problems) == len(expected)
    for text in expected:
        assert any(text in problem for problem in problems), (text, problems)
