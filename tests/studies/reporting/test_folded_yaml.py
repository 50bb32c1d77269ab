"""Short lines of YAML mean the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from studies.reporting.folded_yaml import WIDTH, architecture_yaml, folded
from surgery.architecture import Architecture

ROOT = Path(__file__).resolve().parents[3]
SPACES = [*(ROOT / "search_spaces" / "presets").glob("*.yaml"), *(ROOT / "examples").glob("*.yaml")]


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.name)
def test_spaces_load_back_equal(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    result = folded(text)
    assert yaml.safe_load(result) == yaml.safe_load(text)
    assert max(map(len, result.splitlines())) <= WIDTH
    words = {word for line in text.splitlines() for word in line.partition("# ")[2].split()}
    assert words <= set(result.split()), "comments are kept"


def test_an_architecture_loads_back_equal() -> None:
    architecture = Architecture.from_dict({
        "backbone": {"vocab_size": 49152, "dim": 576, "num_layers": 30, "num_heads": 9, "num_kv_heads": 3,
                     "ffn_dim": 1536, "rope_theta": 100000.0, "max_position_embeddings": 8192},
        "layout": "FWG" * 10,
        "ffn": [{"layers": ",".join(map(str, range(0, 30, 2))), "dim": 768}],
    })  # fmt: skip
    text = architecture_yaml(architecture)
    assert max(map(len, text.splitlines())) <= WIDTH < max(map(len, architecture.to_yaml().splitlines()))
    assert Architecture.from_dict(yaml.safe_load(text)) == architecture


@pytest.mark.parametrize(
    "text",
    [
        "a: |\n  " + "one, two, " * 20,
        "a: '" + "it''s, # no comment, " * 9 + "'",
        'a: "' + r"\"quoted\", # no comment, " * 9 + '"',
        "a: [" + "b, " * 60 + "c]  # " + "why " * 40,
        "a: " + "x" * 200,
        "a: {b: " + "[1, 2], c: " * 1 + "{" + ", ".join(f"k{i}: {i}" for i in range(40)) + "}}",
    ],
)
def test_whatever_is_long_means_the_same(text: str) -> None:
    assert yaml.safe_load(folded(text)) == yaml.safe_load(text)
