"""`proxy.recall`: what is its own beside `test_probe_settings.py`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search_spaces import parse_space
from search_spaces.probes.recall import Recall, read_recall, with_room
from surgery.config.options import Cursor
from surgery.config.problems import Problems

from .test_errors import problems_of
from .test_probe_settings import RECALL

DEFAULTS = RECALL.defaults


def test_settings_are_read() -> None:
    recall = parse_space(RECALL.space_with("{pairs: 4, seq_len: 64, lr: 1e-2}")).proxy.recall
    assert recall == Recall(**{**DEFAULTS, "pairs": 4, "seq_len": 64, "lr": 0.01})


def test_mistakes_come_together() -> None:
    problems = problems_of(RECALL.space_with("{pairs: 0, lr: fast}").replace("tokens: 100k", "tokens: 0"))
    assert {problem.field for problem in problems} == {
        "proxy.tokens",
        "proxy.recall.pairs",
        "proxy.recall.lr",
    }


def test_a_tiny_vocabulary_has_no_room() -> None:
    text = RECALL.space.replace("vocab_size: 512", "vocab_size: 4").replace(', tokenizer: "bpe:512"', "")
    problem = next(item for item in problems_of(text) if item.field == "proxy.recall.alphabet")
    assert "larger vocabulary" in problem.hint


@given(st.integers(1, 100), st.integers(0, 500))
def test_pairs_and_distance_get_the_room_they_need(pairs: int, distance: int) -> None:
    problems = Problems()
    recall = read_recall(with_room({"pairs": pairs, "distance": distance}), None, Cursor(problems))
    assert recall is not None
    assert (recall.pairs, recall.distance) == (pairs, distance)
    assert recall.seq_len - recall.shortest >= 3 * pairs  # as much filler among the questions as by default
    assert with_room({}).items() <= DEFAULTS.items()
    assert with_room({"seq_len": 9, "alphabet": 6, "pairs": 50}) == {"seq_len": 9, "alphabet": 6, "pairs": 50}


def test_the_digest_knows_no_spelling() -> None:
    spelled = parse_space(RECALL.space_with("{pairs: 8, steps: 400.0}"))
    assert spelled.digest == parse_space(RECALL.space).digest
