"""A latency is the sum of the parts' times, each under a name for all that it depends on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from surgery.architecture import Architecture
from surgery.architecture.block_times import BlockTime, BlockTimes, time_key
from surgery.architecture.costs import cost, cost_in_steps, cost_in_units
from surgery.architecture.metrics import METRICS, parse_metric
from surgery.architecture.timed_parts import FFN, MIXER, REST, timed_parts
from surgery.config.problems import UserError
from tests.invented_times import MACHINE, invented, invented_times

BACKBONE = {"vocab_size": 64, "dim": 32, "num_layers": 4, "num_heads": 4, "head_dim": 8, "ffn_dim": 48}


def arch(layout: str = "F", **sections: Any) -> Architecture:
    return Architecture.from_dict({"backbone": BACKBONE, "layout": layout, **sections})


def counts(architecture: Architecture) -> Counter[str]:
    result: Counter[str] = Counter()
    for part, count in timed_parts(architecture):
        result[part.label] += count
    return result


def names(architecture: Architecture, kind: str) -> set[str]:
    return {part.name for part, _ in timed_parts(architecture) if part.kind == kind}


def test_every_pass_executes_every_part() -> None:
    hybrid = arch("FGWN", mixers={"W": {"window": 16}}, loop={"count": 3})
    rest = "embedding, last norm and head"
    assert counts(hybrid) == {rest: 1, "F": 3, "G": 3, "W window=16": 3, "ffn 48": 12}


def test_a_pass_with_a_window_is_another_part_for_attention_only() -> None:
    hybrid = arch("FFGG", loop={"count": 3, "windows": [8, "full", 8]})
    rest = "embedding, last norm and head"
    assert counts(hybrid) == {rest: 1, "F window=8": 4, "F": 2, "G": 6, "ffn 48": 12}


def test_layers_without_a_part_have_no_time_for_it() -> None:
    pruned = arch("FN", ffn=[{"layers": "2-3", "dim": 0}])
    assert sum(count for part, count in timed_parts(pruned) if part.kind == MIXER) == 2
    assert sum(count for part, count in timed_parts(pruned) if part.kind == FFN) == 2


def test_a_name_has_all_that_matters_and_nothing_else() -> None:
    rule = {"match": ["q", "gate"], "operator": "hdpl", "blocks": 4, "rank": 8, "kl": "mean"}
    one = arch(projections=[{**rule, "kl_weight": 0.1}])
    assert names(one, MIXER) == names(arch(projections=[{**rule, "kl_weight": 0.2}]), MIXER)
    assert names(one, MIXER) != names(arch(projections=[{**rule, "rank": 16}]), MIXER)
    assert names(one, MIXER) != names(arch(), MIXER)
    assert names(one, FFN) != names(arch(), FFN)
    assert names(arch("S", mixers={"S": {"index_weight": 0.5}}), MIXER) == names(arch("S"), MIXER)
    assert names(arch("S", mixers={"S": {"top_k": 8}}), MIXER) != names(arch("S"), MIXER)
    assert names(arch("W"), FFN) == names(arch("F"), FFN)
    assert names(arch("F", loop={"count": 2}), REST) != names(arch("F"), REST)
    same = arch("F", mixers={"F": {"kv_heads": 4}})
    assert names(same, MIXER) == names(arch("F"), MIXER)


def test_a_latency_is_the_sum_of_the_parts() -> None:
    hybrid = arch("FGWN", mixers={"W": {"window": 16}}, loop={"count": 2})
    times = invented_times()
    for name, length in (("decode_ms", 100), ("prefill_ms", 64)):
        wanted = sum(count * invented(part, name, length).nanoseconds for part, count in timed_parts(hybrid))
        assert cost_in_steps(hybrid, f"{name}@{length}", times) == wanted
        assert cost_in_units(hybrid, f"{name}@{length}", times) == wanted / 1e6


def test_only_mixers_decode_in_another_time_after_more_tokens() -> None:
    for part, _ in timed_parts(arch("FG")):
        assert (time_key(part, "decode_ms", 8) != time_key(part, "decode_ms", 9)) == (part.kind == MIXER)
        assert time_key(part, "prefill_ms", 8) != time_key(part, "prefill_ms", 9)


def test_a_missing_time_is_measured_once_or_refused() -> None:
    asked = []

    def measure(part: Any, metric: str, length: int) -> BlockTime:
        asked.append(part.name)
        return invented(part, metric, length)

    times = BlockTimes(MACHINE, measure=measure)
    first = cost_in_steps(arch("FG"), "decode_ms@8", times)
    assert cost_in_steps(arch("FG"), "decode_ms@8", times) == first
    assert sorted(asked) == sorted({part.name for part, _ in timed_parts(arch("FG"))})
    times.measure = None
    assert cost_in_steps(arch("GF"), "decode_ms@8", times) == first
    with pytest.raises(UserError, match="the block W was not timed"):
        cost_in_steps(arch("W"), "decode_ms@8", times)
    with pytest.raises(UserError, match="no blocks are timed yet"):
        cost_in_steps(arch(), "decode_ms@8")
    with pytest.raises(ValueError, match="measured by training"):
        cost(arch(), "decode_ms@8")


def test_other_costs_are_in_steps_what_they_are() -> None:
    assert cost_in_steps(arch(), "params") == cost_in_units(arch(), "params") == cost(arch(), "params")


def test_a_time_is_read_as_it_was_written() -> None:
    time = BlockTime(123_456, 0.125, True, "F")
    assert BlockTime.of(time.to_list()) == time
    with pytest.raises(ValueError, match="nanoseconds"):
        BlockTime.of([-1, 0.0, True, "F"])


def test_a_value_in_milliseconds_is_written_and_read() -> None:
    metric, context = parse_metric("decode_ms@4096")
    assert context == 4096
    texts = {0.21: "0.210", 12.0: "12.0", 99.96: "100", 1234.5: "1,234"}
    assert {value: metric.format(value) for value in texts} == texts
    assert metric.parse("12.5") == metric.parse("12.5ms") == metric.parse("12.5 ms") == 12.5
    for text in ("-1", "inf", "12s", ""):
        with pytest.raises(ValueError, match="must be a number of ms"):
            metric.parse(text)
    assert [name for name, item in METRICS.items() if item.timed] == ["decode_ms", "prefill_ms"]
