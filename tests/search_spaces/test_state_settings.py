"""`proxy.state`: what is its own beside `test_probe_settings.py`."""

from __future__ import annotations

from itertools import permutations

import pytest

from search_spaces import parse_space
from search_spaces.probes.recall import METRIC as RECALL
from search_spaces.probes.state import GROUPS, METRIC, State
from surgery.architecture.metrics import METRICS

from .test_errors import line, problems_of
from .test_probe_settings import STATE

BOTH = line(9, "objectives: {val_loss: min, state: max, recall: max}")
DEFAULTS = STATE.defaults


def test_both_probes_in_one_order_however_they_are_written() -> None:
    turned = BOTH.replace("state: max, recall: max", "recall: max, state: max")
    for text in (BOTH, turned):
        assert list(parse_space(text).proxy.probes) == [RECALL, METRIC]


def test_settings_are_read() -> None:
    state = parse_space(STATE.space_with("{group: s5, length: 64, lr: 1e-2}")).proxy.state
    assert state == State(**{**DEFAULTS, "group": "s5", "length": 64, "lr": 0.01})


def test_mistakes_of_both_probes_come_together() -> None:
    text = STATE.space_with("{group: s6, lr: fast}, recall: {pairs: 0}", BOTH)
    fields = {problem.field for problem in problems_of(text)}
    assert fields == {"proxy.state.group", "proxy.state.lr", "proxy.recall.pairs"}


def test_a_small_vocabulary_is_no_matter() -> None:
    text = STATE.space.replace("vocab_size: 512", "vocab_size: 4").replace(', tokenizer: "bpe:512"', "")
    assert not any(item.field.startswith("proxy.state") for item in problems_of(text))


def test_the_metric_is_an_accuracy() -> None:
    metric = METRICS[METRIC]
    assert (metric.unit, metric.better, metric.analytic) == ("accuracy", "max", False)
    assert metric.parse("0.9") == 0.9
    assert metric.format(0.9) == "0.900"
    with pytest.raises(ValueError, match="from 0 to 1"):
        metric.parse("90")


def cycles(item: tuple[int, ...]) -> int:
    """Number of cycles, fixed points among them. A cycle of n things takes n - 1 swaps."""
    count, left = 0, set(range(len(item)))
    while left:
        count, start = count + 1, left.pop()
        while (start := item[start]) in left:
            left.remove(start)
    return count


@pytest.mark.parametrize("name", GROUPS)
def test_the_order_of_a_group_is_counted(name: str) -> None:
    group = GROUPS[name]
    every = permutations(range(group.letters))
    members = [item for item in every if not group.even_only or (len(item) - cycles(item)) % 2 == 0]
    assert group.order == len(members)
    state = State(**{**DEFAULTS, "group": name})
    assert (state.start, state.chance) == (len(members), 1 / len(members))
