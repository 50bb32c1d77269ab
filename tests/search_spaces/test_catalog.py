"""Presets, finding a space, digests and diffs; checking a space is quick and needs no heavy library."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces import Preset, list_presets, load_space, parse_space
from surgery.config.problems import UserError
from tests.search_spaces.test_errors import GOOD

PRESETS = list_presets()
KNOWN = "presets are hdpl, hybrid, pretrained, pretrained-tiny, sprint, tiny"
HEAVY = ("torch", "optuna", "transformers", "datasets", "numpy")


def test_presets_are_listed_with_a_summary() -> None:
    assert {preset.name for preset in PRESETS} >= {"tiny", "hdpl", "hybrid"}
    assert all(20 < len(preset.summary) < 110 for preset in PRESETS)


SCRATCH = [preset for preset in PRESETS if not preset.name.startswith("pretrained")]  # these need a model


@pytest.mark.parametrize("preset", SCRATCH, ids=lambda preset: preset.name)
def test_a_preset_is_a_sound_space(preset: Preset) -> None:
    space = load_space(preset.name)
    assert space.name == preset.name
    assert space.to_yaml() == preset.path.read_text(encoding="utf-8")
    assert parse_space(space.to_yaml()).digest == space.digest
    copy = pickle.loads(pickle.dumps(space))
    assert (copy.name, copy.digest, copy.text) == (space.name, space.digest, space.text)
    assert space.size().count > 1000
    assert space.feasible_share(100) > 0.3
    assert {"dense", "hdpl-paper", "lt2-looped"} <= set(space.baselines)
    assert space.proxy.rung_steps[-1] == space.proxy.steps
    assert not [text for text in space.warnings() if "anywhere" in text]


def test_a_path_wins_over_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text(GOOD)
    assert load_space("tiny").name == "good"
    (tmp_path / "my space.yaml").write_text(GOOD.replace("name: good\n", ""))
    assert load_space(tmp_path / "my space.yaml").name == "my-space"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tinny", f'did you mean "tiny"? {KNOWN}'),
        ("zzz", KNOWN),
        ("no/such/hybrd.yaml", f'did you mean "hybrid"? {KNOWN}'),
    ],
)
def test_names_that_are_no_space(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        load_space(name)
    assert caught.value.problems[0].hint == hint


def test_a_folder_is_no_space(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        load_space(tmp_path)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"space\.yaml"):
        load_space(tmp_path / "space.yaml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: good", "name: other # and a comment"),
        ("tokens: 100k", "tokens: 100000"),
        ('["params <= 200k"]', '["params  <=  0.2M"]'),
        ("{subset: [q, k, gate]}", "{subset: [gate, q, k]}"),
        ("num_heads: 4,", "num_heads: 4, num_kv_heads: 4, head_dim: 8,"),
        ('corpus: builtin, tokenizer: "bpe:512"', "corpus: builtin"),
    ],
)
def test_spelling_does_not_change_the_digest(old: str, new: str) -> None:
    here, there = parse_space(GOOD), parse_space(GOOD.replace(old, new))
    assert old in GOOD
    assert here.digest == there.digest
    assert here.diff(there) == []


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[8, 16]", "[8, 32]", "search.hdpl.rank: {choice: [8, 16]} -> {choice: [8, 32]}"),
        ("ffn_dim: 48", "ffn_dim: 64", "backbone.ffn_dim: 48 -> 64"),
        ("params <= 200k", "params <= 100k", "constraints: [params <= 200000] -> [params <= 100000]"),
        ("[dense]", "[dense, lt2-looped]", "baselines: [dense] -> [dense, lt2-looped]"),
        ("tokens: 100k", "tokens: 90k", "proxy.tokens: 100000 -> 90000"),
        ("tokens: 100k", "tokens: 100k, optimizer: muon", "proxy.optimizer: adamw -> muon"),
        ("tokens: 100k", "tokens: 100k, lr_rule: uniform", "proxy.lr_rule: roles -> uniform"),
        ("  loop.count: {range: [1, 3]}\n", "", "search.loop.count: {range: [1, 3]} -> (none)"),
        ("corpus: builtin", "corpus: fineweb-edu", "data.corpus: builtin -> fineweb-edu"),
        (
            "{val_loss: min, params: min}", "{params: min, val_loss: min}",
            "objectives: {val_loss: min, params: min} -> {params: min, val_loss: min}",
        ),
    ],
)  # fmt: skip
def test_a_change_is_told(old: str, new: str, line: str) -> None:
    here, there = parse_space(GOOD), parse_space(GOOD.replace(old, new))
    assert here.digest != there.digest
    assert [str(item) for item in here.diff(there)] == [line]


def test_importing_and_checking_loads_nothing_heavy() -> None:
    code = (
        "import sys, search_spaces; search_spaces.load_space('tiny').cost_range('params', 5); "
        f"sys.exit(', '.join(name for name in {HEAVY} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
