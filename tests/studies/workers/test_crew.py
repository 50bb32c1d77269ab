"""Lanes: several trials at a time in the threads of one worker, each as if it were alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

import studies.workers.worker
from search_spaces import parse_space
from studies.data import TokenData
from studies.training.errors import TrainingFailed
from studies.training.lanes import Lanes, current_lane, turn
from studies.training.loop import train
from studies.workers.crew import MOST, most_lanes, paid
from studies.workers.proxy import train_settings
from studies.workers.worker import work
from surgery.config.problems import UserError
from surgery.model import HybridLM
from tests.studies.conftest import SPACE, MakeStudy

CPU = torch.device("cpu")
TARGET = 8


def test_trials_in_lanes_have_the_losses_that_they_have_alone(
    make_study: MakeStudy, tokens: TokenData, quiet: Callable[[str], None]
) -> None:
    """Bit for bit, with weights, latent noise and text order of their own."""
    study = make_study()
    reason = work(study, target=TARGET, device="cpu", lanes=3, log=quiet)
    assert reason == f"{TARGET} architectures are trained"
    records = [record for record in study.records() if record.state == "trained"]
    assert len(records) == len({record.hash for record in records}) == TARGET
    assert len({record.worker for record in records}) == 3
    assert any("hdpl" in record.line for record in records), "some draw noise"
    for record in records:
        torch.manual_seed(record.seeds[0])
        alone = train(
            HybridLM(record.build()), tokens, train_settings(study.space, 0), seed=record.seeds[0], device=CPU
        )
        assert alone.val_loss == record.metrics["val_loss"]
    assert not list(study.workers_folder.iterdir())


def test_a_trial_that_fails_leaves_the_other_lanes_alone(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, quiet: Callable[[str], None]
) -> None:
    def failing(model: HybridLM, *args: Any, **options: Any) -> Any:
        if model.architecture.loop_count == 3:
            raise TrainingFailed("the loss became nan at step 1")
        return train(model, *args, **options)

    monkeypatch.setattr(studies.workers.worker, "train", failing)
    study = make_study()
    work(study, target=TARGET, device="cpu", lanes=2, log=quiet)
    states = {record.state for record in study.records()}
    assert {"trained", "failed"} <= states, [(r.state, r.reason, r.line) for r in study.records()]
    assert not states & {"running", "waiting"}


def test_a_stopped_crew_requeues_every_lane(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, quiet: Callable[[str], None]
) -> None:
    """A signal reaches all lanes; what they train is run again from its start."""
    running: list[int] = []

    def stopping(*args: Any, **options: Any) -> Any:
        running.append(1)
        if len(running) == 2:  # both lanes train
            os.kill(os.getpid(), signal.SIGINT)
        return train(*args, **options)

    study = make_study()
    with monkeypatch.context() as patch:
        patch.setattr(studies.workers.worker, "train", stopping)
        with pytest.raises(KeyboardInterrupt):
            work(study, target=TARGET, device="cpu", lanes=2, log=quiet)
    assert "running" not in {record.state for record in study.records()}
    work(study, target=TARGET, device="cpu", lanes=2, log=quiet)
    assert sum(record.state == "trained" for record in study.records()) == TARGET


def test_an_error_of_the_user_ends_all_lanes_and_is_told(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, quiet: Callable[[str], None]
) -> None:
    def failing(*args: Any, **options: Any) -> Any:
        raise TrainingFailed("the loss became nan at step 1")

    monkeypatch.setattr(studies.workers.worker, "train", failing)
    with pytest.raises(UserError, match="trials failed in a row"):
        work(make_study(), target=30, device="cpu", lanes=2, log=quiet)


def test_turns_have_random_numbers_of_their_own() -> None:
    """Two lanes draw in turns what each would draw alone, and the thread's own numbers stay as they were."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    lanes = Lanes(CPU)
    drawn: dict[int, list[float]] = {1: [], 2: []}
    with lanes.lane() as first, lanes.lane() as second:
        for seed, lane in ((1, first), (2, second)):
            with lane.turn():
                torch.manual_seed(seed)
        for _ in range(3):
            for seed, lane in ((1, first), (2, second)):
                with lane.turn(), lane.turn():
                    drawn[seed].append(torch.rand(()).item())
    assert torch.rand(1) == expected
    for seed, numbers in drawn.items():
        torch.manual_seed(seed)
        assert [torch.rand(()).item() for _ in range(3)] == numbers


def test_outside_of_lanes_a_turn_does_nothing() -> None:
    assert current_lane() is None
    with turn():
        assert current_lane() is None


def test_lanes_are_for_trainings_that_do_not_measure_the_machine() -> None:
    space = parse_space(SPACE, "small.yaml")
    gpu = torch.device("cuda")
    assert most_lanes(space, gpu, None) == MOST
    assert most_lanes(space, CPU, None) == 1
    assert most_lanes(space, CPU, 3) == 3
    measured = parse_space(SPACE.replace("params: min,", "peak_memory: min,"), "small.yaml")
    assert most_lanes(measured, gpu, None) == 1


@pytest.mark.parametrize(
    ("before", "now", "count", "pays"),
    [
        ({0: (7, 100.0)}, {0: (7, 80.0), 1: (8, 10.0)}, 2, True),  # 1.6 times the work
        ({0: (7, 100.0)}, {0: (7, 51.0), 1: (8, 900.0)}, 2, False),  # 1.02 times, however fast the new one is
        ({0: (7, 100.0), 1: (8, 10.0)}, {0: (7, 68.0), 1: (9, 50.0), 2: (3, 1.0)}, 3, False),  # 1.02 times
        ({0: (7, 100.0)}, {0: (9, 1.0), 1: (8, 1.0)}, 2, True),  # no trial ran before and after
    ],
)
def test_a_lane_pays_if_the_others_keep_enough_of_their_speed(
    before: dict[int, tuple[int, float]], now: dict[int, tuple[int, float]], count: int, pays: bool
) -> None:
    assert paid(before, now, count) is pays
