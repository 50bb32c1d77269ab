"""Sketches predict the KL divergence of single small changes, and of several at once."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from search_spaces.replacements import Replacements
from studies.data import TokenData
from studies.healing.teacher import Teacher
from studies.library.divergence import TeacherLogits, compare
from studies.library.library import Library
from studies.library.perturbation import FEATURES, Perturbation
from studies.library.scoring import score
from studies.library.sketch import predicted, read_sketch
from studies.library.text import scores_folder
from tests.studies.library.conftest import SETTINGS


def test_products_are_divergences_and_interactions(tmp_path: Path) -> None:
    """Three small changes, two of them similar, against the exact divergence of every sum of them."""
    wanted, head = torch.randn(512, 16), torch.randn(200, 16)
    common = torch.randn(512, 16)
    changes = [0.02 * (common + torch.randn(512, 16)) for _ in range(2)] + [0.02 * torch.randn(512, 16)]
    perturbation = Perturbation(tmp_path)
    perturbation.begin(wanted, head)
    teacher, targets = TeacherLogits(wanted[None], head), torch.zeros(1, 512, dtype=torch.long)
    rows = torch.stack([
        perturbation.features(hidden, compare(hidden[None], teacher, targets).change[0]).flatten()
        for hidden in (wanted + change for change in changes)
    ])  # fmt: skip
    features = (rows / rows.shape[1] ** 0.5).numpy()

    def exact(chosen: tuple[int, ...]) -> float:
        hidden = wanted + torch.stack([changes[index] for index in chosen]).sum(0)
        return compare(hidden[None], teacher, targets).kl.mean().item()

    for size in (1, 2, 3):
        for chosen in combinations(range(3), size):
            assert predicted(features, chosen) == pytest.approx(exact(chosen), rel=0.1), chosen
    similar = exact((0, 1)) - exact((0,)) - exact((1,))
    assert 2 * features[0] @ features[1] == pytest.approx(similar, rel=0.1)


def test_draws_follow_the_teacher_and_are_kept(tmp_path: Path) -> None:
    wanted, head = torch.randn(1, 4).expand(4000, 4).contiguous(), torch.randn(9, 4)
    perturbation = Perturbation(tmp_path)
    perturbation.begin(wanted, head)
    shares = torch.bincount(perturbation.draws.flatten(), minlength=9) / perturbation.draws.numel()
    torch.testing.assert_close(shares, (wanted[0] @ head.T).softmax(-1), atol=0.01, rtol=0)
    again = Perturbation(tmp_path)
    again.begin(-wanted, head)  # of another device, say: the stored draws count
    assert torch.equal(again.draws, perturbation.draws)


def test_a_sketch_of_every_replacement_without_torch(
    library: Library, teacher: Teacher, parts: Replacements, text: TokenData
) -> None:
    scores = score(library, teacher, parts, text, SETTINGS)
    names, features = read_sketch(scores_folder(library.path, text, SETTINGS), parts)
    assert features.dtype == np.float32
    assert features.shape == (len(names), FEATURES)
    for index, name in enumerate(names):
        estimate = predicted(features, [index])
        assert estimate == pytest.approx(scores.kl[name].mean, rel=0.5), name
