"""Scores are the KL divergence of whole models, one part of which is replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search_spaces.replacements import Replacements
from studies.data import TokenData
from studies.healing.teacher import Teacher
from studies.library.assemble import assemble
from studies.library.build import calibration
from studies.library.library import Library
from studies.library.scores import Score, read_scores, write_scores
from studies.library.scoring import score
from surgery.apply.execute import execute
from surgery.apply.plan import plan
from surgery.apply.source import SourceModel
from surgery.model import HybridLM
from tests.studies.library.conftest import SETTINGS


@torch.no_grad()
def brute_force(model: HybridLM, teacher: Teacher, text: TokenData) -> np.ndarray[Any, Any]:
    """The KL divergence of each sequence, from the logits of both models in float64."""
    rows = torch.from_numpy(text.batch(range(8), SETTINGS.seq_len, "val"))[:, :-1]
    p, q = (
        (item(rows).double() @ item.head.weight.double().T).log_softmax(-1)
        for item in (teacher.model, model.float())
    )
    return np.asarray((p.exp() * (p - q)).sum(-1).mean(-1))


def test_scores_are_those_of_whole_models(
    library: Library, teacher: Teacher, parts: Replacements, text: TokenData
) -> None:
    result = score(library, teacher, parts, text, SETTINGS)
    assert list(result.kl) == [(part.name, label) for part in parts.parts for label in part.labels]
    for part in parts.parts:
        assert result.kl[part.name, "keep"] == Score(0.0, 0.0)
        for label in part.labels[1:]:
            model = assemble(teacher, parts, {part.name: label}, library)
            wanted = brute_force(model, teacher, text)
            measured = result.kl[part.name, label]
            assert measured.mean == pytest.approx(wanted.mean(), rel=1e-3, abs=1e-7), (part.name, label)
            error = wanted.std(ddof=1) / 8**0.5
            assert measured.standard_error == pytest.approx(error, rel=1e-2, abs=1e-7)
    assert min(item.mean for key, item in result.kl.items() if key[1] != "keep") > 1e-6


def test_replacing_by_surgery_gives_the_same_score(
    library: Library, source: SourceModel, teacher: Teacher, parts: Replacements, text: TokenData
) -> None:
    """Surgery fits to the activations of the new model, which are the original's below the only new part."""
    result = score(library, teacher, parts, text, SETTINGS)
    for name, label in (
        ("layer.1.mixer", "G"),
        ("layer.2.ffn", "hdpl"),
        ("layer.1.ffn", "low_rank"),
        ("layer.2.mixer", "F kv1"),
        ("layer.2.ffn", "dim 32"),
    ):
        planned = plan(source, parts.architecture({name: label}))
        model, _ = execute(source, planned, calibration=calibration(text, SETTINGS))
        wanted = brute_force(model, teacher, text).mean()
        assert result.kl[name, label].mean == pytest.approx(wanted, rel=1e-3), (name, label)


def test_a_torch_free_reader_has_the_same_scores(
    library: Library, teacher: Teacher, parts: Replacements, text: TokenData, tmp_path: Path
) -> None:
    result = score(library, teacher, parts, text, SETTINGS)
    write_scores(tmp_path, result)
    again = read_scores(tmp_path, parts)
    assert again == result
    choice = {"layer.1.mixer": "G", "layer.2.ffn": "none", "layer.1.ffn": "keep"}
    single = result.kl["layer.1.mixer", "G"].mean + result.kl["layer.2.ffn", "none"].mean
    assert result.predicted(choice) == pytest.approx(single)
