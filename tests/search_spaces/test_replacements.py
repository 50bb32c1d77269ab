"""Spaces over a pretrained model: reading, sampling, exact costs, and their problems."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from search_spaces.catalog import load_space, named_model
from search_spaces.pretrained import ModelSection
from search_spaces.replacements import KEEP, Replacements
from search_spaces.space import SearchSpace
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.config.problems import UserError

MODEL = Architecture.from_dict({
    "backbone": {
        "vocab_size": 512, "dim": 64, "num_layers": 6, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 128,
    },
})  # fmt: skip
SEARCH = """
search:
  layers.mixer: {choice: [keep, G: {key_ratio: 1.0, expand_v: 1}, W: {window: 32, sinks: 4}, K]}
  layers.ffn: {choice: [keep, hdpl: {match: [gate, up], blocks: 4, rank: 50%}]}
  layers.keep: "0,-1"
"""
OBJECTIVES = "objectives: {kl: min, cache_bytes@1024: min}\n"


def load(folder: Path, text: str) -> SearchSpace:
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_space(path, ModelSection("model", "0123", MODEL))


@pytest.fixture
def space(tmp_path: Path) -> SearchSpace:
    return load(tmp_path, SEARCH + OBJECTIVES)


def replacements(space: SearchSpace) -> Replacements:
    assert space.replacements is not None
    return space.replacements


def test_parts_and_their_options(space: SearchSpace) -> None:
    parts = replacements(space).parts
    assert [part.name for part in parts[:2]] == ["layer.1.mixer", "layer.1.ffn"]
    assert {part.layer for part in parts} == {1, 2, 3, 4}
    assert parts[0].labels == (KEEP, "G key_ratio=1 expand_v=1", "W window=32 sinks=4", "K")
    assert parts[1].labels == (KEEP, "hdpl gate,up b4 r32")
    assert space.size().count == (4 * 2) ** 4


def test_a_low_rank_product_by_a_share_of_the_width(tmp_path: Path) -> None:
    search = "search: {layers.ffn: {choice: [keep, low_rank: {match: [gate, up, down], rank: 25%}]}}\n"
    space = load(tmp_path, search + OBJECTIVES)
    (label,) = replacements(space).parts[0].labels[1:]
    assert label == "low_rank gate,up,down r16"
    row = replacements(space).differences("params")[0]
    assert row == [0, 3 * (16 * (64 + 128) - 64 * 128)]


def test_keeping_everything_is_the_model(space: SearchSpace) -> None:
    assert replacements(space).architecture({}) == MODEL
    assert space.params_of(MODEL) == {part.name: KEEP for part in replacements(space).parts}


@pytest.mark.parametrize("metric", ["params", "cache_bytes@1024", "decode_flops@1024", "train_flops@256"])
def test_costs_add_up_over_parts(space: SearchSpace, metric: str) -> None:
    rows = replacements(space).differences(metric)
    for seed in range(5):
        architecture = space.sample_random(seed)
        params = space.params_of(architecture)
        assert params is not None
        extra = sum(
            row[part.labels.index(params[part.name])]
            for part, row in zip(replacements(space).parts, rows, strict=True)
        )
        assert cost(architecture, metric) == cost(MODEL, metric) + extra


def test_the_choice_of_an_architecture(space: SearchSpace) -> None:
    for seed in range(10):
        architecture = space.sample_random(seed)
        choice = replacements(space).choice(architecture)
        assert choice is not None
        assert replacements(space).architecture(choice) == architecture
    assert replacements(space).choice(Architecture.from_dict({**MODEL.to_dict(), "layout": "G"})) is None


def test_limits_as_shares_of_the_model(tmp_path: Path) -> None:
    space = load(tmp_path, SEARCH + OBJECTIVES + 'constraints: ["cache_bytes@1024 <= 50%"]\n')
    assert space.constraints[0].limit == cost(MODEL, "cache_bytes@1024") // 2
    assert str(space.constraints[0]) == "cache_bytes@1024 <= 50%"


def test_the_space_survives_pickling_and_its_own_text(space: SearchSpace) -> None:
    again = pickle.loads(pickle.dumps(space))
    assert (again.digest, again.model) == (space.digest, space.model)


@pytest.mark.parametrize(
    ("text", "field", "rule"),
    [
        (SEARCH + "objectives: {recall: max}\n", "objectives.recall", "is measured by training from scratch"),
        (SEARCH + OBJECTIVES + "library: {prompts: -1}\n", "library.prompts", ""),
        (SEARCH + "objectives: {kl: min, retrieval: max}\n", "library.prompts", "needs prompts"),
        (SEARCH + OBJECTIVES + 'constraints: ["cache_bytes@1024 <= 1%"]\n', "constraints[0]", "no arch"),
        (
            "search: {layers.mixer: {choice: [keep, X]}}\n" + OBJECTIVES,
            "search.layers.mixer.choice[1]",
            "is not a replacement of a layer's mixer",
        ),
        (
            "search: {layers.ffn: {choice: [keep, hdpl: {match: [q], blocks: 4, rank: 8}]}}\n" + OBJECTIVES,
            "search.layers.ffn.choice[1].hdpl.match",
            "is not in a layer's ffn",
        ),
        (
            "search: {layers.ffn: {choice: [keep, low_rank: {match: up, rank: 72}]}}\n" + OBJECTIVES,
            "search.layers.ffn.choice[1]",
            "rank must be at most 64",
        ),
        (
            "search: {layers.ffn: {choice: [keep, hdpl: {match: up, blocks: 7, rank: 8}]}}\n" + OBJECTIVES,
            "search.layers.ffn.choice[1]",
            "blocks",
        ),
        (
            "search: {layers.mixer: {choice: [keep, X, F: {kv_heads: 3}]}}\n" + OBJECTIVES,
            "search.layers.mixer.choice[2]",
            "must divide",
        ),
        ("search: {layers.mixer: {choice: [keep]}}\n" + OBJECTIVES, "search", "nothing varies"),
        (SEARCH.replace("0,-1", "0-5") + OBJECTIVES, "search.layers.keep", "keeps every layer"),
        (SEARCH.replace("0,-1", "9") + OBJECTIVES, "search.layers.keep", "layer 9 does not exist"),
    ],
)  # fmt: skip
def test_problems(tmp_path: Path, text: str, field: str, rule: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    assert any(item.field == field and rule in item.rule for item in error.value.problems), error.value


def test_a_space_of_replacements_needs_a_model(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SEARCH + OBJECTIVES)
    with pytest.raises(UserError, match="--model"):
        load_space(path)


@pytest.mark.parametrize(
    "sizes",
    [
        {"dim": 576, "num_layers": 30, "num_heads": 9, "num_kv_heads": 3, "head_dim": 64, "ffn_dim": 1536},
        {"dim": 2048, "num_layers": 22, "num_heads": 32, "num_kv_heads": 4, "ffn_dim": 5632},
        {"dim": 896, "num_layers": 24, "num_heads": 14, "num_kv_heads": 2, "ffn_dim": 4864, "biases": ["q"]},
    ],
    ids=["SmolLM2-135M", "TinyLlama-1.1B", "like Qwen2-0.5B"],
)
def test_the_preset_fits_models(sizes: dict[str, object]) -> None:
    model = Architecture.from_dict({"backbone": {"vocab_size": 1000, **sizes}})
    space = load_space("pretrained", ModelSection("model", "0123", model))
    assert {part.layer for part in replacements(space).parts} == set(range(1, len(model.layers)))
    assert not space.warnings()


def test_costs_at_longer_texts_than_are_measured(tmp_path: Path) -> None:
    space = load(tmp_path, SEARCH + "objectives: {kl: min, cache_bytes@8192: min}\n")
    assert "library.seq_len" in space.warnings()[0]


def test_a_model_is_no_use_to_a_space_from_scratch() -> None:
    with pytest.raises(UserError, match="from scratch"):
        load_space("tiny", ModelSection("model", "0123", MODEL))


def test_a_name_in_the_file_becomes_the_section(tmp_path: Path) -> None:
    path, section = tmp_path / "mine.yaml", ModelSection("model", "0123", MODEL)
    path.write_text(SEARCH + OBJECTIVES)
    given = load_space(path, section)
    assert named_model(path) is None
    path.write_text(f"# mine\nmodel: >-\n  some/\n  where  # here\n{SEARCH}{OBJECTIVES}")
    named = load_space(path, section)
    assert named_model(path) == "some/ where  # here"
    assert named.digest == given.digest
    path.write_text(f"model: 'some/where'  # here\n{SEARCH}{OBJECTIVES}")
    assert named_model(path) == "some/where"
    assert load_space(path, section).digest == given.digest
    assert load_space(path, section).text.startswith("  # here\n")
    with pytest.raises(UserError, match="has to be read first"):
        load_space(path)
    path.write_text(given.text)
    assert named_model(path) is None  # a whole section
    assert load_space(path).digest == given.digest
    assert named_model("pretrained") is None
