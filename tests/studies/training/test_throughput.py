"""Budgets in seconds: counted out in steps, once for each architecture, also when it is trained again."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count

import pytest
import torch

from studies.audit.plan import open_audit
from studies.audit.report import report
from studies.audit.runs import train_runs
from studies.data import TokenData
from studies.search.refinement import take_repeat
from studies.study.trial_record import DONE, FAILED, REPEATED
from studies.training import throughput as pace
from studies.training.errors import TrainingFailed
from studies.training.loop import train
from studies.training.profiling import watching
from studies.training.settings import TrainSettings
from studies.training.step import TrainStep
from studies.workers.worker import work
from surgery.architecture import Architecture
from surgery.model import HybridLM
from tests.studies.conftest import SPACE, MakeStudy
from tests.studies.tables import row_of

TIMED = SPACE.replace("proxy: {tokens: 2048,", "proxy: {seconds: 6, tokens: 8192,")
CPU = torch.device("cpu")
SETTINGS = TrainSettings(tokens=8192, seq_len=32, batch_tokens=512, eval_at=(0.5, 1.0))
BACKBONE = {"vocab_size": 512, "dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 32}


@pytest.fixture
def architecture() -> Architecture:
    return Architecture.from_dict({"backbone": BACKBONE})


@pytest.fixture
def a_pass_a_second(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every pass of a stack seems to take half a second per step; gives the hashes of what was timed."""
    asked: list[str] = []

    def seconds(settings: object, at_least: float, architecture: Architecture, *rest: object) -> float:
        asked.append(architecture.hash)
        return 0.5 * architecture.loop_count

    monkeypatch.setattr(pace, "seconds_per_step", seconds)
    return asked


def test_steps_of_the_model_thrown_away_are_no_training(
    tokens: TokenData, architecture: Architecture
) -> None:
    """A watcher sees all of it as one phase, and the phases after it as they are."""
    with watching(CPU) as stretches:
        pace.by_time(SETTINGS, 60.0, architecture, tokens, CPU)
        TrainStep(HybridLM(architecture), SETTINGS, CPU)
    names = [name for name, _ in stretches.stretches]
    assert set(names[:-1]) == {"pace"}
    assert names[-1] == "build"


def test_a_step_is_timed_behind_the_first_ones(
    tokens: TokenData, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that advances by a quarter of a second per step, and by a minute in each of the first."""
    clock, steps = 0.0, count(1)
    plainly: Callable[..., None] = TrainStep.step

    def step(self: TrainStep, *rest: object) -> None:
        nonlocal clock
        clock += 60.0 if next(steps) < pace.BEFORE else 0.25
        plainly(self, *rest)

    monkeypatch.setattr(TrainStep, "step", step)
    monkeypatch.setattr(pace, "perf_counter", lambda: clock)
    assert pace.seconds_per_step(SETTINGS, 4.0, architecture, tokens, CPU) == 0.25
    assert next(steps) - 1 == pace.BEFORE + 2 * pace.TIMED  # 2.5 s, then 5 s


@pytest.mark.parametrize(("seconds", "steps"), [(1.1, 2), (5.0, 10), (99.0, 16)])
def test_as_many_steps_as_fit(
    tokens: TokenData, architecture: Architecture, a_pass_a_second: list[str], seconds: float, steps: int
) -> None:
    result = pace.by_time(SETTINGS, seconds, architecture, tokens, CPU)
    assert result.steps == steps
    assert result.tokens == 512 * steps


def test_too_little_time_is_said(
    tokens: TokenData, architecture: Architecture, a_pass_a_second: list[str]
) -> None:
    with pytest.raises(TrainingFailed, match=r"steps of 0.5 s: 0.6 s are too short for 2 rungs"):
        pace.by_time(SETTINGS, 0.6, architecture, tokens, CPU)


def test_a_study_by_time(make_study: MakeStudy, a_pass_a_second: list[str]) -> None:
    """Slower architectures get fewer tokens; repeats and audits go by what the first run got."""
    study = make_study(text=TIMED)
    work(study, target=8, device="cpu", log=lambda line: None)
    records = [record for record in study.records() if record.state == DONE]
    assert {record.build().loop_count for record in records} >= {1, 3}
    for record in records:
        assert record.steps == 12 // record.build().loop_count
        assert record.tokens == 512 * record.steps
        curve = study.curve(record.number)
        assert [at["step"] for at in curve if "val_loss" in at] == [round(0.5 * record.steps), record.steps]
    assert sorted(a_pass_a_second) == sorted(record.hash for record in records)
    work(study, target=2, device="cpu", log=lambda line: None, take_next=take_repeat)
    repeats = [record for record in study.records() if record.state == REPEATED]
    assert [item.steps for item in repeats] == [study.record(item.repeat_of or 0).steps for item in repeats]
    assert len(a_pass_a_second) == len(records)
    audit = open_audit(study, 2, 4)
    train_runs(audit, 1, "cpu")
    for member in audit.members:
        (result,) = audit.results()[member.hash]
        assert result["tokens"] == 2 * 512 * (study.record(member.number).steps or 0)
    data = report(audit)
    assert row_of(data, "loss at 50% of it").count == 4
    assert json.loads(json.dumps(data.to_dict()))["proxy_seconds"] == 6


def test_steps_are_kept_when_a_trial_is_put_back(
    make_study: MakeStudy, a_pass_a_second: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(text=TIMED)

    def killed(*args: object, **options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("studies.workers.worker.train", killed)
    with pytest.raises(KeyboardInterrupt):
        work(study, target=1, device="cpu", log=lambda line: None)
    assert study.record(0).steps == 12
    monkeypatch.setattr("studies.workers.worker.train", train)
    work(study, target=1, device="cpu", log=lambda line: None)
    assert len(a_pass_a_second) == 1


def test_an_architecture_too_slow_fails_with_the_reason(
    make_study: MakeStudy, a_pass_a_second: list[str]
) -> None:
    study = make_study(text=TIMED.replace("seconds: 6", "seconds: 1"))
    work(study, target=3, device="cpu", log=lambda line: None)
    slow = [record for record in study.records() if record.state == FAILED]
    assert slow
    assert all(record.build().loop_count > 1 for record in slow)
    assert "too short for 2 rungs" in slow[0].reason
