"""CPU threads of training processes: those asked for, or a rule of width, workers and cores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studies.training import threads
from studies.training.threads import NARROW, choose_threads
from tests.models import architecture

BACKBONE = architecture().backbone
WIDE = replace(BACKBONE, dim=NARROW, head_dim=NARROW // BACKBONE.num_heads)


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_narrow_model_has_one(workers: int) -> None:
    assert BACKBONE.dim < NARROW
    assert choose_threads(None, BACKBONE, workers) == 1


@pytest.mark.parametrize(("workers", "want"), [(1, 8), (2, 4), (3, 2), (8, 1), (20, 1)])
def test_workers_of_a_wide_model_share_the_cores(workers: int, want: int) -> None:
    assert choose_threads(None, WIDE, workers) == want


@pytest.mark.parametrize(
    ("value", "want"), [("5", 5), (" 5 ", 5), ("5,2", 5), ("0", 1), ("", 1), ("many", 1)]
)
def test_the_environment_comes_before_the_rule(
    value: str, want: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that OpenMP itself would refuse are ignored."""
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert choose_threads(None, BACKBONE, 4) == want


@pytest.mark.parametrize("asked", [1, 3, 64])
def test_what_is_asked_for_comes_first(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert choose_threads(asked, BACKBONE, 4) == choose_threads(asked, WIDE, 4) == asked
