"""`proxy.recall`: read only where recall is an objective, its mistakes told like all others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import parse_space
from search_spaces.probes.recall import OPTIONS, Recall, read_recall, with_room
from surgery.config.options import Cursor
from surgery.config.problems import Problems

from .test_errors import GOOD, line, problem_of, problems_of

WITH = line(9, "objectives: {val_loss: min, recall: max, params: min}")
PROXY = "proxy: {tokens: 100k, seq_len: 64, batch_tokens: 1024"
DEFAULTS = {name: option.default for name, option in OPTIONS.items()}


def with_settings(text: str) -> str:
    assert PROXY in WITH
    return WITH.replace(PROXY, f"{PROXY}, recall: {text}")


def test_defaults_fit_together() -> None:
    space = parse_space(WITH)
    assert space.proxy.recall == Recall(**DEFAULTS)
    assert [str(item) for item in space.objectives] == ["val_loss min", "recall max", "params min"]


def test_recall_may_be_the_only_quality() -> None:
    text = line(9, "objectives: {recall: max, params: min}")
    assert parse_space(text).proxy.recall is not None


def test_settings_are_read() -> None:
    recall = parse_space(with_settings("{pairs: 4, seq_len: 64, lr: 1e-2}")).proxy.recall
    assert recall == Recall(**{**DEFAULTS, "pairs": 4, "seq_len": 64, "lr": 0.01})


@pytest.mark.parametrize(
    ("text", "field", "rule", "hint"),
    [
        ("{pair: 4}", "proxy.recall.pair", "not a field", '"pairs"'),
        ("{pairs: many}", "proxy.recall.pairs", "whole number", "remember"),
        ("{pairs: 0}", "proxy.recall.pairs", "at least 1", ""),
        ("{steps: 0}", "proxy.recall.steps", "at least 1", ""),
        ("{batch: 1.5}", "proxy.recall.batch", "whole number", ""),
        ("{lr: 7}", "proxy.recall.lr", "at most 1", "learning rate"),
        ("{seq_len: 20}", "proxy.recall.pairs", "don't fit seq_len 20", "at most 6 pairs, or seq_len 24"),
        ("{distance: 25}", "proxy.recall.distance", "does not fit seq_len 48", "at most 24, or seq_len 49"),
        ("{distance: -1}", "proxy.recall.distance", "at least 0", "filler"),
        ("{pairs: 9}", "proxy.recall.pairs", "half of the alphabet is 8", "alphabet: 18"),
        ("{alphabet: 17}", "proxy.recall.alphabet", "must be even", "16 or 18"),
        ("{alphabet: 512}", "proxy.recall.alphabet", "vocab_size (512)", "at most 510"),
        ("8", "proxy.recall", "mapping", ""),
    ],
)  # fmt: skip
def test_one_mistake(text: str, field: str, rule: str, hint: str) -> None:
    problem = problem_of(with_settings(text))
    assert (problem.field, problem.line) == (field, 11)
    assert rule in problem.rule
    assert hint in problem.hint


def test_mistakes_come_together() -> None:
    problems = problems_of(with_settings("{pairs: 0, lr: fast}").replace("tokens: 100k", "tokens: 0"))
    assert {problem.field for problem in problems} == {
        "proxy.tokens",
        "proxy.recall.pairs",
        "proxy.recall.lr",
    }


def test_a_tiny_vocabulary_has_no_room() -> None:
    text = WITH.replace("vocab_size: 512", "vocab_size: 4").replace(', tokenizer: "bpe:512"', "")
    problem = next(item for item in problems_of(text) if item.field == "proxy.recall.alphabet")
    assert "larger vocabulary" in problem.hint


def test_settings_without_the_objective_have_no_effect() -> None:
    problem = problem_of(with_settings("{pairs: 4}").replace("recall: max, ", ""))
    assert (problem.field, problem.line) == ("proxy.recall", 11)
    assert "no effect" in problem.rule
    assert "recall: max" in problem.hint


@given(st.integers(1, 100), st.integers(0, 500))
def test_pairs_and_distance_get_the_room_they_need(pairs: int, distance: int) -> None:
    problems = Problems()
    recall = read_recall(with_room({"pairs": pairs, "distance": distance}), None, Cursor(problems))
    assert recall is not None
    assert (recall.pairs, recall.distance) == (pairs, distance)
    assert recall.seq_len - recall.shortest >= 3 * pairs  # as much filler among the questions as by default
    assert with_room({}).items() <= DEFAULTS.items()
    assert with_room({"seq_len": 9, "alphabet": 6, "pairs": 50}) == {"seq_len": 9, "alphabet": 6, "pairs": 50}


@pytest.mark.parametrize(
    ("objective", "rule"),
    [("recall: min", "worse recall"), ("recall@64: max", "takes no context"), ("recal: max", '"recall"')],
)
def test_wrong_objectives(objective: str, rule: str) -> None:
    assert rule in problem_of(line(9, f"objectives: {{val_loss: min, {objective}}}")).rule


def test_recall_is_no_constraint() -> None:
    assert "only known after training" in problem_of(line(8, 'constraints: ["recall >= 0.9"]')).rule


def test_the_digest_has_it_only_where_it_is_used() -> None:
    plain, probed = parse_space(GOOD), parse_space(WITH)
    assert "recall" not in plain.to_dict()["proxy"]
    assert probed.to_dict()["proxy"]["recall"] == DEFAULTS
    harder = parse_space(with_settings("{pairs: 4}"))
    assert harder.digest != probed.digest
    before, after = (", ".join(f"{k}: {v}" for k, v in {**DEFAULTS, "pairs": n}.items()) for n in (8, 4))
    assert probed.diff(harder) == [f"proxy.recall: {{{before}}} -> {{{after}}}"]
    spelled = parse_space(with_settings("{pairs: 8, steps: 400.0}"))
    assert spelled.digest == probed.digest
