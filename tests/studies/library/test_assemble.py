"""Assembled models are made of the library's parts and the original's own tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from search_spaces.replacements import Replacements
from studies.data import TokenData
from studies.evaluation.retrieval import TASKS, draw_prompts
from studies.healing.teacher import Teacher
from studies.library import passages
from studies.library.assemble import assemble
from studies.library.entries import entries_of
from studies.library.library import Library
from studies.library.measure import measure
from studies.library.text import samples, scored_sequences, stretch
from surgery.apply.source import SourceModel
from surgery.config.problems import UserError
from tests.studies.library.conftest import CPU, SETTINGS

CHOICE = {"layer.1.mixer": "G", "layer.1.ffn": "none", "layer.2.mixer": "keep", "layer.2.ffn": "hdpl"}


def test_a_model_is_the_sum_of_its_parts(library: Library, teacher: Teacher, parts: Replacements) -> None:
    model = assemble(teacher, parts, CHOICE, library)
    assert model.architecture == parts.architecture(CHOICE)
    theirs, entries = teacher.model.state_dict(), entries_of(parts)
    own = {
        entry.prefix + name: tensor
        for key in CHOICE.items()
        if (entry := entries.get(key)) is not None
        for name, tensor in library.state(entry).items()
    }
    for name, tensor in model.state_dict().items():
        if name in own:
            assert torch.equal(tensor, own.pop(name)), name
        else:
            assert tensor.data_ptr() == theirs[name].data_ptr(), name
    assert not own
    assert not any(name.startswith("layers.1.ffn") for name in model.state_dict())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_keeping_everything_is_the_original(
    library: Library, teacher: Teacher, parts: Replacements, text: TokenData
) -> None:
    model = assemble(teacher, parts, {}, library)
    tokens = torch.randint(320, (2, 20))
    assert torch.equal(model(tokens), teacher.model(tokens))
    result = measure(model, teacher, text, SETTINGS)
    assert result["kl"] == pytest.approx(0, abs=1e-6)


def test_measurements_are_means_over_sequences(
    library: Library, teacher: Teacher, parts: Replacements, text: TokenData
) -> None:
    model = assemble(teacher, parts, CHOICE, library)
    result = measure(model, teacher, text, SETTINGS)
    rows = stretch(text, SETTINGS, 0)
    tokens = torch.from_numpy(text.batch(rows, SETTINGS.seq_len, "val"))
    p, q = (
        F.linear(item(tokens[:, :-1]), item.head.weight).double().log_softmax(-1)
        for item in (teacher.model, model)
    )
    nats = F.nll_loss(q.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(rows), -1)
    kl = (p.exp() * (p - q)).sum(-1)
    for name, values in (("val_loss", nats.mean(1)), ("kl", kl.mean(1))):
        assert result[name] == pytest.approx(values.mean().item(), rel=1e-4)
        assert result[f"{name}_se"] == pytest.approx(values.std().item() / len(rows) ** 0.5, rel=1e-3)
    size = text.val_bytes(rows.start * SETTINGS.seq_len + 1, rows.stop * SETTINGS.seq_len + 1)
    assert result["val_bpb"] == pytest.approx(nats.sum().item() / np.log(2) / size, rel=1e-5)
    assert 0 < result["val_bpb_se"] < result["val_bpb"]


def test_the_original_runs_once_for_many_designs(
    library: Library, source: SourceModel, parts: Replacements, text: TokenData
) -> None:
    teacher = Teacher(source, CPU)
    runs: list[int] = []
    teacher.model.register_forward_pre_hook(lambda *_: runs.append(1))
    designs = [assemble(teacher, parts, choice, library) for choice in (CHOICE, {}, CHOICE)]
    first, _, last = (measure(model, teacher, text, SETTINGS) for model in designs)
    assert first == last
    assert len(runs) == 1  # batch
    assert measure(designs[0], teacher, text, SETTINGS, sample=1) != first
    assert len(runs) == 2


def test_retrieval_by_generating(
    library: Library,
    teacher: Teacher,
    parts: Replacements,
    text: TokenData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[str] = []

    def draw(task: str, *args: Any, **given: Any) -> Any:
        drawn.append(task)
        return draw_prompts(task, *args, **given)

    monkeypatch.setattr(passages, "draw_prompts", draw)
    settings = replace(SETTINGS, seq_len=192, eval_tokens=384, prompts=2)
    result = measure(assemble(teacher, parts, CHOICE, library), teacher, text, settings)
    assert result["retrieval"] == result["retrieval_se"] == 0  # random weights find nothing
    assert drawn == list(TASKS), "once, for generating and for the divergence at the answers"


def test_samples_are_separate_and_behind_the_scored_text(text: TokenData) -> None:
    count = samples(text, SETTINGS)
    assert count > 1
    seen = list(range(scored_sequences(text, SETTINGS)))
    for sample in range(count):
        seen += stretch(text, SETTINGS, sample)
    assert len(set(seen)) == len(seen)
    assert max(seen) < text.num_sequences("val", SETTINGS.seq_len)
    with pytest.raises(UserError, match="stretches"):
        stretch(text, SETTINGS, count)
    large = replace(SETTINGS, eval_tokens=10**9, score_tokens=10**9)
    assert samples(text, large) == 1
    assert len(stretch(text, large, 0)) == text.num_sequences("val", SETTINGS.seq_len)
    with pytest.raises(UserError, match="two sequences"):
        scored_sequences(text, replace(SETTINGS, seq_len=len(text.tokens("val")) - 2))
