"""Building: only what is missing, entry by entry, each fitted to the original's activations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.replacements import Part, Replacement, Replacements
from studies.data import TokenData
from studies.files.json_file import write_json
from studies.healing.settings import HealSettings
from studies.healing.teacher import Teacher
from studies.library.assemble import replaced_block
from studies.library.build import build
from studies.library.entries import entries_of
from studies.library.library import Library
from studies.library.scoring import score
from studies.training.loop import Interrupted
from surgery.apply.execute import fit_layer
from surgery.apply.fit import FitReport
from surgery.apply.source import SourceModel
from surgery.config.problems import UserError
from surgery.model import Block
from tests.studies.library.conftest import CPU, SETTINGS, open_library


def stops_after(calls: int) -> Callable[[], bool]:
    left = [calls]

    def should_stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return should_stop


def test_an_interrupted_build_makes_nothing_twice(
    source: SourceModel, parts: Replacements, text: TokenData, library: Library, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fitted: list[str] = []

    def counted(*args: Any) -> Iterator[FitReport]:
        fitted.append(str(args[2]))
        return fit_layer(*args)

    monkeypatch.setattr("studies.library.build.fit_layer", counted)
    attempts = 0
    while True:
        attempts += 1
        mine = open_library(tmp_path / "mine", source, text, SETTINGS)
        try:
            build(mine, source, parts, text, SETTINGS, CPU, should_stop=stops_after(2))
        except Interrupted:
            continue
        break
    assert attempts == 5
    assert (
        len(fitted) == 10
    )  # G, heads, both operators and widths in two layers; the others have nothing to fit
    for entry in entries_of(parts).values():
        theirs = library.state(entry)
        assert mine.errors(entry) == library.errors(entry)
        for name, tensor in mine.state(entry).items():
            assert torch.equal(tensor, theirs.pop(name)), (entry.name, name)
        assert not theirs


def test_a_write_that_is_killed_leaves_the_library_usable(
    source: SourceModel, parts: Replacements, text: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after an entry's file is complete and before the index is."""
    written: list[Path] = []

    def killed(path: Path, data: object) -> None:
        written.append(path)
        if len(written) == 9:
            raise KeyboardInterrupt
        write_json(path, data)

    mine = open_library(tmp_path / "mine", source, text, SETTINGS)
    monkeypatch.setattr("studies.library.library.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        build(mine, source, parts, text, SETTINGS, CPU)
    again = open_library(tmp_path / "mine", source, text, SETTINGS)
    known = [entry for entry in entries_of(parts).values() if again.has(entry)]
    assert len(known) == 8
    assert all(again.state(entry) is not None for entry in known)
    build(again, source, parts, text, SETTINGS, CPU)
    assert not again.missing(entries_of(parts).values())


def test_an_interrupted_scoring_scores_nothing_twice(
    source: SourceModel, teacher: Teacher, parts: Replacements, text: TokenData, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    mine = open_library(tmp_path / "mine", source, text, SETTINGS)
    build(mine, source, parts, text, SETTINGS, CPU)
    scored: list[str] = []

    def counted(*args: Any) -> Block:
        scored.append(args[2].name)
        return replaced_block(*args)

    monkeypatch.setattr("studies.library.scoring.replaced_block", counted)
    attempts = 0
    while True:
        attempts += 1
        try:
            result = score(mine, teacher, parts, text, SETTINGS, should_stop=stops_after(6))
        except Interrupted:
            scored.pop()
            continue
        break
    assert attempts > 2
    assert sorted(scored) == sorted(entry.name for entry in entries_of(parts).values())
    assert score(mine, teacher, parts, text, SETTINGS) == result
    assert len(scored) == len(entries_of(parts))


def test_other_spaces_share_what_is_the_same(
    source: SourceModel, parts: Replacements, text: TokenData, library: Library
) -> None:
    """A replacement is known by what it is, however a space calls it."""
    renamed = Replacement("mixer", "delta", "G", {"key_ratio": 1.0, "expand_v": 1.0, "conv_size": 4})
    other = Replacement("mixer", "G", "G", {"key_ratio": 1.0, "expand_v": 2.0})
    keep = parts.parts[0].options[0]
    space = Replacements(source.architecture, (Part(1, "mixer", (keep, renamed, other)),))
    entries = entries_of(space)
    same, different = entries["layer.1.mixer", "delta"], entries["layer.1.mixer", "G"]
    assert same.name == entries_of(parts)["layer.1.mixer", "G"].name
    assert library.has(same)
    assert not library.has(different)
    same_heads = Replacement("mixer", "all heads", "F", {"kv_heads": 2})
    space = Replacements(source.architecture, (Part(1, "mixer", (keep, same_heads)),))
    assert not library.has(entries_of(space)["layer.1.mixer", "all heads"])


def test_alignment_brings_parts_nearer(
    source: SourceModel, teacher: Teacher, parts: Replacements, text: TokenData, library: Library,
    tmp_path: Path,
) -> None:  # fmt: skip
    settings = replace(SETTINGS, align_tokens=16_384)
    keep, delta, window, *_ = parts.parts[0].options
    few = Replacements(parts.model, (Part(1, "mixer", (keep, delta, window)),))
    mine = open_library(tmp_path / "mine", source, text, settings)
    seen: list[str] = []
    build(mine, source, few, text, settings, CPU, lambda stage, done, total: seen.append(stage))
    assert "aligning G, steps" in seen
    entries = entries_of(few)
    assert all(mine.is_aligned(entry) for entry in entries.values())
    assert not mine.state(entries["layer.1.mixer", "W16+2"])
    for key, entry in entries.items():
        distances = mine.errors(entry)
        assert distances.get("aligned", 0) <= distances.get("fitted", 0), key
    before, after = (score(item, teacher, few, text, SETTINGS) for item in (library, mine))
    key = ("layer.1.mixer", "G")
    assert after.kl[key].mean < before.kl[key].mean


def test_an_alignment_that_does_harm_is_not_kept(
    source: SourceModel, parts: Replacements, text: TokenData, library: Library, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = replace(SETTINGS, align_tokens=4096)
    monkeypatch.setattr(
        "studies.library.align.HealSettings", partial(HealSettings, align_lr=1.0, align_lr_carried=1.0)
    )
    few = Replacements(parts.model, (Part(1, "mixer", parts.parts[0].options[:2]),))
    mine = open_library(tmp_path / "mine", source, text, settings)
    build(mine, source, few, text, settings, CPU)
    entry = entries_of(few)["layer.1.mixer", "G"]
    assert mine.is_aligned(entry)
    assert mine.errors(entry)["aligned"] == mine.errors(entry)["fitted"]
    for name, tensor in mine.state(entry).items():
        assert torch.equal(tensor, library.state(entry)[name]), name


def test_a_library_that_another_process_builds_is_waited_for(
    source: SourceModel, text: TokenData, tmp_path: Path
) -> None:
    mine, theirs = (open_library(tmp_path / "mine", source, text, SETTINGS) for _ in range(2))
    with theirs.lock(lambda: False), pytest.raises(Interrupted), mine.lock(stops_after(1)):
        pass
    with mine.lock(lambda: True):
        pass


def test_text_that_does_not_fit_is_refused_before_anything_is_built(
    source: SourceModel, parts: Replacements, text: TokenData, library: Library
) -> None:
    cases = {
        "context of 256 tokens": replace(SETTINGS, seq_len=512),
        "too short for retrieval": replace(SETTINGS, prompts=1),
        "two sequences": replace(SETTINGS, seq_len=250, score_tokens=250, eval_tokens=250),
    }
    few = TokenData(text.folder, text.meta)
    few.tokens = lambda split: text.tokens(split)[:400]  # type: ignore[method-assign]
    for rule, settings in cases.items():
        with pytest.raises(UserError, match=rule):
            build(library, source, parts, few, settings, CPU)


def test_an_alignment_of_less_than_a_step(
    source: SourceModel, parts: Replacements, text: TokenData, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, align_tokens=1)
    few = Replacements(parts.model, (Part(1, "ffn", parts.parts[1].options[:2]),))
    mine = open_library(tmp_path / "mine", source, text, settings)
    build(mine, source, few, text, settings, CPU)
    assert mine.is_aligned(entries_of(few)["layer.1.ffn", "hdpl"])


def test_a_replacement_that_breaks_the_model(
    source: SourceModel, teacher: Teacher, parts: Replacements, text: TokenData, tmp_path: Path
) -> None:
    few = Replacements(parts.model, (Part(1, "ffn", parts.parts[1].options[:2]),))
    mine = open_library(tmp_path / "mine", source, text, SETTINGS)
    build(mine, source, few, text, SETTINGS, CPU)
    entry = entries_of(few)["layer.1.ffn", "hdpl"]
    mine.add(entry, {name: tensor * torch.nan for name, tensor in mine.state(entry).items()})
    with pytest.raises(UserError, match=r"layer\.1\.ffn = 'hdpl': makes the model's predictions NaN"):
        score(mine, teacher, few, text, SETTINGS)


def test_damaged_and_foreign_folders(source: SourceModel, text: TokenData, tmp_path: Path) -> None:
    mine = open_library(tmp_path / "mine", source, text, SETTINGS)
    with pytest.raises(UserError, match="belongs to another"):
        Library.open(mine.path, {**mine.key, "weights": "x"})
    (mine.path / "index.json").write_text(json.dumps({"key": {}}))
    with pytest.raises(UserError, match="no usable index"):
        Library.open(mine.path)
