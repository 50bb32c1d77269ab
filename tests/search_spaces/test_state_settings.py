"""`proxy.state`: read only where state is an objective, its mistakes told like all others."""

from __future__ import annotations

from itertools import permutations

import pytest

from search_spaces import parse_space
from search_spaces.probes.recall import METRIC as RECALL
from search_spaces.probes.state import GROUPS, METRIC, OPTIONS, State
from surgery.architecture.metrics import METRICS

from .test_errors import GOOD, line, problem_of, problems_of

WITH = line(9, "objectives: {val_loss: min, state: max, params: min}")
BOTH = line(9, "objectives: {val_loss: min, state: max, recall: max}")
PROXY = "proxy: {tokens: 100k, seq_len: 64, batch_tokens: 1024"
DEFAULTS = {name: option.default for name, option in OPTIONS.items()}


def with_settings(text: str, space: str = WITH) -> str:
    assert PROXY in space
    return space.replace(PROXY, f"{PROXY}, state: {text}")


def test_defaults() -> None:
    space = parse_space(WITH)
    assert space.proxy.state == State(**DEFAULTS)
    assert space.proxy.recall is None
    assert space.proxy.probes == {METRIC: space.proxy.state}
    assert [str(item) for item in space.objectives] == ["val_loss min", "state max", "params min"]


def test_both_probes_in_one_order_however_they_are_written() -> None:
    turned = BOTH.replace("state: max, recall: max", "recall: max, state: max")
    for text in (BOTH, turned):
        assert list(parse_space(text).proxy.probes) == [RECALL, METRIC]


def test_state_may_be_the_only_quality() -> None:
    assert parse_space(line(9, "objectives: {state: max, params: min}")).proxy.state is not None


def test_settings_are_read() -> None:
    state = parse_space(with_settings("{group: s5, length: 64, lr: 1e-2}")).proxy.state
    assert state == State(**{**DEFAULTS, "group": "s5", "length": 64, "lr": 0.01})


@pytest.mark.parametrize(
    ("text", "field", "rule", "hint"),
    [
        ("{lenght: 4}", "proxy.state.lenght", "not a field", '"length"'),
        ("{group: s6}", "proxy.state.group", "one of parity, s3, s4, a5, s5", "tokens"),
        ("{group: 3}", "proxy.state.group", "one of parity", ""),
        ("{length: 1}", "proxy.state.length", "at least 2", "word"),
        ("{length: long}", "proxy.state.length", "whole number", ""),
        ("{steps: 0}", "proxy.state.steps", "at least 1", ""),
        ("{batch: 1.5}", "proxy.state.batch", "whole number", ""),
        ("{lr: 7}", "proxy.state.lr", "at most 1", "learning rate"),
        ("s5", "proxy.state", "mapping", ""),
    ],
)  # fmt: skip
def test_one_mistake(text: str, field: str, rule: str, hint: str) -> None:
    problem = problem_of(with_settings(text))
    assert (problem.field, problem.line) == (field, 11)
    assert rule in problem.rule
    assert hint in problem.hint


def test_mistakes_of_both_probes_come_together() -> None:
    text = with_settings("{group: s6, lr: fast}, recall: {pairs: 0}", BOTH)
    fields = {problem.field for problem in problems_of(text)}
    assert fields == {"proxy.state.group", "proxy.state.lr", "proxy.recall.pairs"}


def test_a_small_vocabulary_is_no_matter() -> None:
    text = WITH.replace("vocab_size: 512", "vocab_size: 4").replace(', tokenizer: "bpe:512"', "")
    assert not any(item.field.startswith("proxy.state") for item in problems_of(text))


def test_settings_without_the_objective_have_no_effect() -> None:
    problem = problem_of(with_settings("{group: s5}").replace("state: max, ", ""))
    assert (problem.field, problem.line) == ("proxy.state", 11)
    assert "no effect" in problem.rule
    assert "state: max" in problem.hint


@pytest.mark.parametrize(
    ("objective", "rule"),
    [("state: min", "worse state"), ("state@64: max", "takes no context"), ("stat: max", '"state"')],
)
def test_wrong_objectives(objective: str, rule: str) -> None:
    assert rule in problem_of(line(9, f"objectives: {{val_loss: min, {objective}}}")).rule


def test_state_is_no_constraint() -> None:
    assert "only known after training" in problem_of(line(8, 'constraints: ["state >= 0.9"]')).rule


def test_the_digest_has_it_only_where_it_is_used() -> None:
    plain, probed = parse_space(GOOD), parse_space(WITH)
    assert "state" not in plain.to_dict()["proxy"]
    assert probed.to_dict()["proxy"]["state"] == DEFAULTS
    assert "recall" not in probed.to_dict()["proxy"]
    harder = parse_space(with_settings("{length: 48}"))
    assert harder.digest != probed.digest
    before, after = (
        ", ".join(f"{k}: {v}" for k, v in {**DEFAULTS, "length": n}.items()) for n in (DEFAULTS["length"], 48)
    )
    assert probed.diff(harder) == [f"proxy.state: {{{before}}} -> {{{after}}}"]


def test_the_metric_is_an_accuracy() -> None:
    metric = METRICS[METRIC]
    assert (metric.unit, metric.better, metric.analytic) == ("accuracy", "max", False)
    assert metric.parse("0.9") == 0.9
    assert metric.format(0.9) == "0.900"
    with pytest.raises(ValueError, match="from 0 to 1"):
        metric.parse("90")


def cycles(item: tuple[int, ...]) -> int:
    """How many, fixed points among them. A cycle of n things takes n - 1 swaps."""
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
