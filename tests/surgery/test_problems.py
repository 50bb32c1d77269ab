"""Errors a user reads."""

from __future__ import annotations

import pickle

import pytest

from surgery.config.problems import Problem, Problems, UserError, nearest


def test_a_problem_says_where_what_and_how_to_mend_it() -> None:
    problem = Problem("backbone.dim", -3, "must be at least 1", "width of the residual stream", 7)
    assert str(problem) == "line 7: backbone.dim = -3: must be at least 1 (width of the residual stream)"
    assert str(Problem("layout", "FX", "'X' is not a mixer")) == "layout = 'FX': 'X' is not a mixer"
    assert str(Problem("dim", None, "is missing")) == "dim: is missing"
    assert len(str(Problem("text", "x" * 1000, "is long"))) < 120


def test_all_problems_come_at_once() -> None:
    problems = Problems()
    problems.raise_if_any("nothing is wrong")
    assert not problems
    problems.add("a", 1, "is wrong")
    problems.add("b", None, "is missing", line=3)
    assert problems
    with pytest.raises(UserError) as caught:
        problems.raise_if_any("file.yaml: not valid")
    assert str(caught.value) == "file.yaml: not valid\n  - a = 1: is wrong\n  - line 3: b: is missing"
    assert isinstance(caught.value, ValueError)


def test_an_error_crosses_processes() -> None:
    error = UserError("title", [Problem("a", [1], "is wrong", "hint", 2)])
    again = pickle.loads(pickle.dumps(error))
    assert (again.title, again.problems, str(again)) == (error.title, error.problems, str(error))


@pytest.mark.parametrize(
    ("word", "hint"),
    [("num_head", 'did you mean "num_heads"?'), ("dims", 'did you mean "dim"?'), ("zzz", ""), ("", "")],
)
def test_nearest(word: str, hint: str) -> None:
    assert nearest(word, ["dim", "num_heads", "num_layers"]) == hint
