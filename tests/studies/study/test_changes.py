"""The refusal of another space: which fields differ, in a few lines, and commands that work."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces import SearchSpace, load_space, parse_space
from studies.study.changes import MOST, refuse_changes
from studies.study.settings import StudySettings
from surgery.config.problems import UserError
from tests.nas_cli.conftest import MICRO

SPACE = parse_space(MICRO, "micro.yaml")
SETTINGS = StudySettings(tokenizer="bpe:320")


def refusal(
    space: SearchSpace, settings: StudySettings = SETTINGS, folder: Path = Path("runs/micro")
) -> UserError:
    with pytest.raises(UserError) as caught:
        refuse_changes(folder, (SPACE, SETTINGS), (space, settings))
    return caught.value


def test_no_change_is_no_refusal() -> None:
    other = parse_space(MICRO.replace("120k", "120000").replace("name: micro", "name: other"), "x.yaml")
    refuse_changes(Path("runs/micro"), (SPACE, SETTINGS), (other, SETTINGS))


def test_few_changes_are_told_one_by_one() -> None:
    error = refusal(parse_space(MICRO.replace("[4, 8]", "[4]").replace("[1, 2, 3]", "[1, 2]"), "x.yaml"))
    assert [f"{item.field}: {item.rule}" for item in error.problems] == [
        "search.loop.count: {choice: [1, 2, 3]} -> {choice: [1, 2]}",
        "search.hdpl.rank: {choice: [4, 8]} -> 4",
    ]
    assert "--name micro-2 starts another study" in error.problems[-1].hint
    assert error.problems[-1].hint.endswith("is resumed by nas search runs/micro/space.yaml")


def test_another_space_altogether_is_a_line_for_each_section() -> None:
    settings = replace(SETTINGS, seed=3, stopping="none", tokenizer="bpe:8192", corpus="fineweb-edu")
    error = refusal(load_space("hybrid"), replace(settings, data_hash="f00"))
    text = str(error).splitlines()
    assert len(text) <= 1 + MOST
    assert all(len(line) < 260 for line in text)
    assert "  - backbone: vocab_size 320 -> 8192; dim 32 -> 512; num_layers 2 -> 8" in text[1]
    assert "also hdpl.projections, hdpl.blocks" in str(error)
    assert "data: corpus builtin -> fineweb-edu; tokenizer bpe:320 -> bpe:8192" in str(error)
    assert "seed, stopping differ" in text[-1]  # data_hash and tokenizer follow from the text


def test_of_long_values_the_difference_is_shown() -> None:
    error = refusal(parse_space(MICRO.replace("120k", "120001"), "x.yaml"))
    assert "120000] -> " in error.problems[0].rule
    names = ", ".join(f"params <= {number}M" for number in range(20, 40))
    long = parse_space(MICRO.replace('["decode_flops@64 <= 120k"]', f"[{names}]"), "x.yaml")
    changed = parse_space(long.text.replace("39M", "41M"), "x.yaml")
    with pytest.raises(UserError) as caught:
        refuse_changes(Path("runs/micro"), (long, SETTINGS), (changed, SETTINGS))
    rule = caught.value.problems[0].rule
    assert rule.startswith("…")
    assert "39000000] -> …" in rule
    assert rule.endswith("41000000]")


def test_the_command_has_what_the_study_was_started_with(tmp_path: Path) -> None:
    (tmp_path / "mine-2").mkdir()
    settings = replace(SETTINGS, seed=3, stopping="none", corpus="fineweb-edu", threads=4)
    with pytest.raises(UserError) as caught:
        refuse_changes(tmp_path / "mine", (SPACE, settings), (SPACE, replace(settings, seed=0)))
    hint = caught.value.problems[0].hint
    assert hint.startswith("--name mine-3 ")
    options = shlex.split(hint.partition("is resumed by ")[2])[3:]
    assert options == [
        "--name", "mine", "--dir", str(tmp_path), "--data", "fineweb-edu", "--stopping", "none",
        "--seed", "3",
    ]  # fmt: skip
