"""Every mistake in a space file is told at once: line, field, value, rule and the way to mend it."""

from __future__ import annotations

import contextlib

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

# line, what stands there, field of the problem, part of its rule, part of its hint
CASES = [
    (1, "name: my space", "name", "letters, digits", ""),
    (1, "nam: x", "nam", "not a field", 'did you mean "name"?'),
    (2, "backbone: {dim: 32, num_layers: 4, num_heads: 4, ffn_dim: 48}", "backbone.vocab_size",
     "missing", ""),
    (4, "  hdpl.projections: {subset: [q, kk]}", "search.hdpl.projections.subset[1]", "projection", '"k"'),
    (4, "  hdpl.projections: {subset: [q, q]}", "search.hdpl.projections.subset[1]", "twice", "remove"),
    (4, "  hdpl.projections: {subset: []}", "search.hdpl.projections.subset", "at least one", ""),
    (4, "  hdpl.projections: [q, gates]", "search.hdpl.projections", 'did you mean "gate"?', ""),
    (5, "  hdpl.block: {choice: [2, 4]}", "search.hdpl.block", "not a field", '"hdpl.blocks"'),
    (5, "  hdpl.blocks: {choise: [2, 4]}", "search.hdpl.blocks.choise", "not a distribution", '"choice"'),
    (5, "  hdpl.blocks: {log: [2, 4]}", "search.hdpl.blocks.log", "does not suit", "{choice: [A, B]}"),
    (5, "  hdpl.blocks: {choice: []}", "search.hdpl.blocks.choice", "at least one value", ""),
    (5, "  hdpl.blocks: {choice: [2, two]}", "search.hdpl.blocks.choice[1]", "whole number", ""),
    (5, "  hdpl.blocks: {choice: [2, 0]}", "search.hdpl.blocks.choice[1]", "at least 1", ""),
    (5, "  hdpl.blocks: {choice: [2, 2]}", "search.hdpl.blocks.choice[1]", "twice", ""),
    (5, "  hdpl.blocks: {choice: [2], range: [1, 2]}", "search.hdpl.blocks", "one distribution", "choice"),
    (5, "  hdpl.blocks: [2, 4]", "search.hdpl.blocks", "one value or a distribution", "choice"),
    (5, "  hdpl.blocks: 2.5", "search.hdpl.blocks", "whole number", ""),
    (5, "  hdpl.blocks: {choice: [4, 3]}", "search.hdpl.blocks.choice[1]", "gate (32 -> 48)",
     "1, 2, 4, 8, 16"),
    (5, "  hdpl.blocks: {range: [1, 16]}", "search.hdpl.blocks", "must divide both", "as a choice"),
    (5, "  backbone.num_layers: 4", "search.hdpl.blocks", "is missing", "blocks"),
    (6, "  hdpl.rank: {range: [16, 8]}", "search.hdpl.rank.range", "above the upper bound", "[8, 16]"),
    (6, "  hdpl.rank: {range: [8, 16, 32]}", "search.hdpl.rank.range", "two numbers", ""),
    (6, "  hdpl.rank: {range: [8, 16], step: 3}", "search.hdpl.rank.range", "does not reach 16", "[8, 14]"),
    (6, "  hdpl.rank: {range: [8, 16], step: 0}", "search.hdpl.rank.range", "at least 1", ""),
    (6, "  hdpl.rank: {choice: [8, 16], step: 2}", "search.hdpl.rank.step", "only a range", ""),
    (7, "  loop.count: {range: [1, 65]}", "search.loop.count.range[1]", "at most 64", ""),
    (7, "  loop: {count: 2}", "search.loop", "not a field", "loop.count"),
    (7, "  hdpl.rnk: 8", "search.hdpl.rnk", "not a field", '"hdpl.rank"'),
    (7, "  hdpl.kl_weight: {log: [0, 1]}", "search.hdpl.kl_weight.log[0]", "above 0", "1e-6"),
    (7, "  hdpl.kl_weight: {range: [0, 1]}", "search.hdpl.kl_weight.range", "does not suit", "log"),
    (7, "  hdpl.kl: {choice: [mean, free_bit]}", "search.hdpl.kl.choice[1]", 'did you mean "free_bits"?', ""),
    (7, '  hdpl.layers: {choice: [all, "0-9"]}', "search.hdpl.layers.choice[1]", "layer 9", ""),
    (7, "  layout: {choice: [F, FFFFFF]}", "search.layout.choice[1]", "6 letters for 4 layers", "tiled"),
    (7, "  layout: {choice: [F, X]}", "search.layout.choice[1]", "'X' is not a mixer", ""),
    (7, "  mixers.placement: {choice: [front, back]}", "search.mixers.placement",
     "without mixers.ratio", "full"),
    (7, "  mixers.ratio: {ful: [0, 2]}", "search.mixers.ratio.ful", "not a mixer", '"full"'),
    (7, "  mixers.ratio: {F: [0, 2]}", "search.mixers.ratio.F", "not a mixer", '"full"'),
    (7, "  mixers.ratio: {full: [3, 2]}", "search.mixers.ratio.full", "above the upper bound", "[2, 3]"),
    (7, "  mixers.ratio: {full: [0, -2]}", "search.mixers.ratio.full", "whole numbers from 0", ""),
    (7, "  mixers.ratio: {full: 0}", "search.mixers.ratio", "no mixer may have a share", ""),
    (7, "  mixers.ratio: {full: [0, 99999]}", "search.mixers.ratio", "100,000 ratios", "narrow"),
    (7, "  backbone.num_heads: {choice: [4, 3]}", "search.backbone.num_heads",
     "must divide dim (32)", "head_dim"),
    (7, "  backbone.num_kv_heads: {choice: [4, 3]}", "search.backbone.num_kv_heads", "divide num_heads", ""),
    (7, "  backbone.dim: {choice: [32, 36]}", "search.backbone.dim", "head_dim 9 must be even", "rotary"),
    (7, "  backbone.dim: {choice: [32, 40, 50]}", "search.backbone.dim", "divide dim (50)", ""),
    (7, "  backbone.vocab_size: {choice: [3, 4]}", "search.backbone.vocab_size", "not a field", ""),
    (7, "  backbone.ffn_dim: {range: [1, 60000]}", "search.backbone.ffn_dim.range", "60,000 values", "step"),
    (8, 'constraints: "params <= 3M"', "constraints", "must be a list", "params <= 70M"),
    (8, "constraints: [params 3M]", "constraints[0]", "not a constraint", "params <= 70M"),
    (8, 'constraints: ["parms <= 3M"]', "constraints[0]", 'did you mean "params"?', ""),
    (8, 'constraints: ["params = 3M"]', "constraints[0]", "not a comparison", '"=="'),
    (8, 'constraints: ["params <= 8MiB"]', "constraints[0]", "whole count", ""),
    (8, 'constraints: ["cache_bytes@4096 <= 8Mio"]', "constraints[0]", "8MiB", ""),
    (8, 'constraints: ["cache_bytes <= 8MiB"]', "constraints[0]", "needs a context", ""),
    (8, 'constraints: ["params@4 <= 8M"]', "constraints[0]", "takes no context", ""),
    (8, 'constraints: ["params >= 1k <= 8M"]', "constraints[0]", "two limits", "two constraints"),
    (8, 'constraints: ["val_loss <= 3"]', "constraints[0]", "only known after training", "objective"),
    (8, 'constraints: ["peak_memory <= 1GiB"]', "constraints[0]", "only known after training", "params"),
    (8, 'constraints: ["params < 70k", "params >= 70k"]', "constraints[1]",
     "conflicts with params < 70k", ""),
    (8, 'constraints: ["params < 70k", "params == 70k"]', "constraints[1]",
     "conflicts with params < 70k", ""),
    (8, 'constraints: ["params <= 1k"]', "constraints[0]", "params reaches from", "widen"),
    (8, 'constraints: ["params == 70001"]', "constraints", "none of 2000 random", "loosen it"),
    (9, "objectives: {}", "objectives", "map metrics to min or max", "val_loss"),
    (9, "objectives: [val_loss]", "objectives", "map metrics to min or max", "val_loss"),
    (9, "objectives: {val_los: min}", "objectives.val_los", 'did you mean "val_loss"?', ""),
    (9, "objectives: {val_loss: mn}", "objectives.val_loss", "min or max", '"min"'),
    (9, "objectives: {val_loss: max}", "objectives.val_loss", "worse val_loss", "min"),
    (9, "objectives: {val_loss: min, cache_bytes: min}", "objectives.cache_bytes", "needs a context", ""),
    (9, "objectives: {params: min}", "objectives", "no quality is optimised", "val_loss: min"),
    (9, "objectives: {val_loss: min, cache_bytes@1k: min, cache_bytes@1000: min}",
     "objectives.cache_bytes@1000", "repeats cache_bytes@1000", ""),
    (9, "objectives: {val_loss: min, params: min, cache_bytes@8: min, train_flops@8: min, val_bpb: min}",
     "objectives", "at most 4", "constraints"),
    (10, "baselines: dense", "baselines", "must be a list", "hdpl-paper"),
    (10, "baselines: [dens]", "baselines[0]", "not a baseline", '"dense"'),
    (10, "baselines: [dense, dense]", "baselines[1]", "twice", ""),
    (11, "proxy: {token: 3M}", "proxy.token", "not a field", '"tokens"'),
    (11, "proxy: {tokens: 3X}", "proxy.tokens", "whole count", "training run"),
    (11, "proxy: {tokens: 0}", "proxy.tokens", "at least 1", ""),
    (11, "proxy: {tokens: 1000, seq_len: 64, batch_tokens: 1024}", "proxy.tokens", "less than one step", ""),
    (11, "proxy: {seq_len: 100, batch_tokens: 1030}", "proxy.batch_tokens", "multiple of seq_len",
     "1000 or 1100"),
    (11, "proxy: {rungs: [0.5, 0.1, 1.0]}", "proxy.rungs", "must increase: [0.1, 0.5, 1]", ""),
    (11, "proxy: {rungs: [0.5]}", "proxy.rungs", "end with 1.0", ""),
    (11, "proxy: {rungs: [0.5, 2]}", "proxy.rungs", "at most 1", ""),
    (11, "proxy: {tokens: 2M, batch_tokens: 1M, seq_len: 500}", "proxy.rungs", "only 2 steps", "fewer rungs"),
    (11, "proxy: {lr: fast}", "proxy.lr", "must be a number", "learning rate"),
    (11, "proxy: {lr_rule: role}", "proxy.lr_rule", "one of roles, width, uniform", "roles"),
    (11, "proxy: {warmup: 5}", "proxy.warmup", "at least one step", "fraction"),
    (11, "proxy: {warmup: 0.95}", "proxy.warmup", "at most 0.9", "fraction"),
    (11, "proxy: {warmup: 19M}", "proxy.warmup", "at most 0.9 of the run", "fraction"),
    (11, "proxy: {warmup: long}", "proxy.warmup", "whole count", "tokens such as 1M"),
    (11, "proxy: {eval_tokens: 100}", "proxy.eval_tokens", "less than one sequence", ""),
    (11, "proxy: {seeds: 0}", "proxy.seeds", "at least 1", ""),
    (12, "data: {corpus: bultin}", "data.corpus", "not a named corpus", '"builtin"'),
    (12, "data: {corpus: 3}", "data.corpus", "must be a name", ""),
    (12, 'data: {tokenizer: "bpe:lots"}', "data.tokenizer", "whole count", "bpe:4096"),
    (12, 'data: {tokenizer: "bpe:100"}', "data.tokenizer", "at least 257", ""),
    (12, 'data: {tokenizer: "bpe:1024"}', "data.tokenizer", "vocab_size (512)", "bpe:512"),
    (12, "dat: {}", "dat", "not a field", '"data"'),
]  # fmt: skip


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
    """Whatever is wrong elsewhere, a line's mistake is still told, unless it takes other lines to see it."""
    chosen = {CASES[index][0]: CASES[index] for index in sorted(picked)}
    lines = GOOD.splitlines()
    for number, case in chosen.items():
        lines[number - 1] = case[1]
    found = {(problem.field, problem.line) for problem in problems_of("\n".join(lines))}
    for number, _, field, rule, _ in chosen.values():
        if not any(part in rule for part in NEEDS_OTHERS):
            assert (field, number) in found


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
