"""Designs to beat: their budgets, their families, and published layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.catalog import load_space
from search_spaces.pretrained import ModelSection
from search_spaces.space import SearchSpace
from studies.search.comparisons import comparisons
from studies.search.designs import DesignChooser
from studies.search.prediction import Scored
from studies.search.published import published
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from tests.studies.search.test_designs import CACHE, MODEL, TEXT, W, scores, summed

DECODE = "decode_flops@1024"
PAPERS = """
search:
  layers.mixer:
    choice: [keep, G: {key_ratio: 1.0, expand_v: 1}, G: {key_ratio: 0.5, expand_v: 2}, K, W: {window: 32},
             hdpl: {match: [q, k, v], blocks: 4, rank: 16}]
  layers.ffn:
    choice: [keep, hdpl: {match: [gate, up], blocks: 4, rank: 16}, low_rank: {match: [gate, up], rank: 16}]
  layers.keep: "0"
objectives: {kl: min, cache_bytes@1024: min}
"""
HYBRID = Architecture.from_dict({**MODEL.to_dict(), "layout": "WWWF", "mixers": {"W": {"window": 64}}})


def load(folder: Path, text: str, model: Architecture = MODEL) -> SearchSpace:
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_space(path, ModelSection("model", "0123", model))


@pytest.fixture
def space(tmp_path: Path) -> SearchSpace:
    return load(tmp_path, TEXT)


Kl = dict[tuple[str, str], float]


def rivals_of(space: SearchSpace, kl: Kl, *metrics: str) -> dict[str, dict[str, str]]:
    """Return the designs to beat by name, predicted by summed scores."""
    assert space.replacements is not None
    items = list(comparisons(space.replacements, kl, metrics, lambda choice: summed(kl, choice)))
    assert len({tuple(sorted(item.choice.items())) for item in items}) == len(items)
    assert len({item.name for item in items}) == len(items)
    return {item.name: item.choice for item in items}


def test_designs_to_beat(space: SearchSpace) -> None:
    kl = scores(space)
    rivals = rivals_of(space, kl, CACHE)
    uniform = rivals[f"uniform {W} 50%"]
    # a window of 36 of 1,024 tokens takes 96 % off the cache of a layer: five of eight layers take off half
    assert list(uniform) == [f"layer.{layer}.mixer" for layer in (0, 2, 3, 5, 7)]
    lowest = rivals[f"lowest {W} 50%"]
    ranked = sorted(range(8), key=lambda layer: kl[f"layer.{layer}.mixer", W])
    assert set(lowest) == {f"layer.{layer}.mixer" for layer in ranked[:5]}
    dropped = rivals["dropped layers 25%"]
    assert len(dropped) == 12
    assert set(dropped.values()) == {"none"}


@pytest.mark.parametrize("metrics", [(CACHE, DECODE), (DECODE, CACHE)])
def test_every_design_to_beat_is_within_the_budget_of_its_name(
    space: SearchSpace, metrics: tuple[str, str]
) -> None:
    assert space.replacements is not None
    rivals = rivals_of(space, scores(space), *metrics)
    words = {"cache": CACHE, "decode": DECODE}
    counts = dict.fromkeys(metrics, 0)
    for name, choice in rivals.items():
        budget, _, word = name.partition("%")
        metric = words[word.strip()] if word else metrics[0]
        assert metric == metrics[0] or word
        share = float(budget.rpartition(" ")[2]) / 100
        assert cost(space.replacements.architecture(choice), metric) <= share * cost(MODEL, metric)
        counts[metric] += 1
    assert all(counts.values())


def test_of_each_operator_the_best_predicted_is_kept(tmp_path: Path) -> None:
    space = load(tmp_path, PAPERS.replace('layers.keep: "0"', ""))
    kl = scores(space)
    rivals = rivals_of(space, kl, CACHE)
    assert space.replacements is not None
    labels = [label for label in space.replacements.parts[0].labels if label.startswith("G ")]
    assert len(labels) == 2
    names = [name for name in rivals if name.startswith("lowest G") and name.endswith(" 50%")]
    assert len(names) == 1
    for label in labels:
        ranked = sorted(
            (kl[part.name, label], part.name) for part in space.replacements.parts if part.part == "mixer"
        )
        for count in range(1, len(ranked) + 1):
            choice = {name: label for _, name in ranked[:count]}
            if cost(space.replacements.architecture(choice), CACHE) <= cost(MODEL, CACHE) / 2:
                assert summed(kl, choice) >= summed(kl, rivals[names[0]])
                break
    operators = {name.split()[1] for name in rivals if name.startswith("lowest") and name.endswith(" 50%")}
    assert {"G", "W"} <= operators


def test_designs_whose_prediction_is_not_finite_are_left_out(space: SearchSpace) -> None:
    assert space.replacements is not None
    kl = scores(space)
    items = comparisons(space.replacements, kl, [CACHE], lambda choice: float("inf"))
    assert list(items) == []


def test_two_metrics_of_one_word_are_told_apart_by_their_names(space: SearchSpace) -> None:
    other = "cache_bytes@256"
    rivals = rivals_of(space, scores(space), CACHE, other)
    assert all(name.endswith(("%", f"% {other}")) for name in rivals)


def test_published_layouts_are_laid_over_the_depth(tmp_path: Path) -> None:
    space = load(tmp_path, PAPERS)
    kl = scores(space)
    assert space.replacements is not None
    layouts = dict(published(space.replacements, kl))
    # those that loop full attention or are dense are the model itself, and no S is offered
    assert set(layouts) == {"hdpl-paper", "lt2-gdn", "lt2-full-gdn", "lt2-bookend", "gka", "gka-hybrid"}
    drawn = {name: space.replacements.architecture(choice).layout for name, choice in layouts.items()}
    assert drawn["lt2-full-gdn"] == "FGGGFGGG"  # layer 0 is kept
    assert drawn["lt2-bookend"] == "FGGGGGGF"
    assert drawn["gka-hybrid"] == "FKKFKKKF"
    assert drawn["gka"] == "FKKKKKKK"
    assert drawn["hdpl-paper"] == "FFFFFFFF"
    design = space.replacements.architecture(layouts["hdpl-paper"])
    operators = {name: item.name for name, item in design.layers[3].projections.items()}
    assert {name for name, operator in operators.items() if operator == "hdpl"} == {
        "q",
        "k",
        "v",
        "gate",
        "up",
    }
    assert all(item.name == "dense" for item in design.layers[0].projections.values())


def test_of_several_replacements_the_one_with_the_lowest_scores_is_laid(tmp_path: Path) -> None:
    space = load(tmp_path, PAPERS)
    assert space.replacements is not None
    labels = [label for label in space.replacements.parts[0].labels if label.startswith("G ")]
    for label in labels:
        kl = {key: 0.01 if key[1] == label else value + 0.01 for key, value in scores(space).items()}
        assert set(dict(published(space.replacements, kl))["lt2-gdn"].values()) == {label}


def test_a_model_keeps_its_own_mixer_where_a_layout_has_full_attention(tmp_path: Path) -> None:
    space = load(tmp_path, PAPERS, HYBRID)
    assert space.replacements is not None
    layouts = dict(published(space.replacements, scores(space)))
    assert space.replacements.architecture(layouts["gka-hybrid"]).layout == "WKKFKKKF"
    assert space.replacements.architecture(layouts["lt2-full-gdn"]).layout == "WGGGWGGG"


def test_a_design_that_lacks_a_part_is_left_out(tmp_path: Path) -> None:
    text = PAPERS.replace(" hdpl: {match: [q, k, v], blocks: 4, rank: 16}", "none").replace(" K,", "")
    space = load(tmp_path, text)
    assert space.replacements is not None
    names = {"lt2-gdn", "lt2-full-gdn", "lt2-bookend"}
    assert set(dict(published(space.replacements, scores(space)))) == names
    space = load(tmp_path, TEXT)
    assert space.replacements is not None
    assert dict(published(space.replacements, scores(space))) == {}


def test_a_search_measures_them_under_their_names(tmp_path: Path) -> None:
    space = load(tmp_path, PAPERS)
    kl = {key: value / 20 for key, value in scores(space).items()}
    names = [name for name, _, _ in DesignChooser(space, Scored(kl))._first if name]
    assert names[0] == "original"
    assert {"gka-hybrid", "lt2-full-gdn"} <= set(names)
