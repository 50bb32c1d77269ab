"""Audits: who is chosen, trained once by any number of workers, and what the report says."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import SearchSpace
from studies.audit.plan import Audit, open_audit
from studies.audit.plot import plot_audit
from studies.audit.report import FEWEST, NONE, PROXY, report, verdict
from studies.audit.runs import helpers, train_runs
from studies.audit.sample import LOSS_BINS, PARAMS_BINS, choose_members
from studies.audit.settings import long_settings
from studies.data import TokenData
from studies.stats.rank_correlation import Estimate, kendall, spearman
from studies.study import Study
from studies.study.trial_record import DONE, TrialRecord
from studies.training.loop import Interrupted
from studies.workers.worker import work
from surgery.config.problems import UserError
from tests.studies.conftest import MakeStudy, study_settings
from tests.studies.tables import row_of

COUNT = 5


@pytest.fixture(scope="module")
def trained(tokens: TokenData, space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study."""
    made = Study.create("study", space, study_settings(tokens), tmp_path_factory.mktemp("trained"))
    work(made, target=8, device="cpu", log=lambda line: None)
    return made.folder


@pytest.fixture
def study(trained: Path, tmp_path: Path) -> Study:
    """A copy of it for one test."""
    return Study.open(str(shutil.copytree(trained, tmp_path / "runs" / trained.name)))


WORDS = ("the proxy", "training 4 times longer")


def record(number: int, loss: float, params: float, state: str = DONE) -> TrialRecord:
    return TrialRecord(
        number=number, state=state, values=(loss, params), metrics={"val_loss": loss, "params": params},
        line="", hash=f"h{number}", architecture=None, baseline=None, feasible=True, reason="", worker="",
        seconds=1.0, seeds=(),
    )  # fmt: skip


@given(st.integers(1, 60), st.integers(2, 40), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_sample_is_spread(trained: int, count: int, seed: int, random: object) -> None:
    rng = np.random.default_rng(seed)
    records = [record(number, *rng.uniform(1, 9, size=2)) for number in range(trained)]
    records.append(record(trained, math.nan, 1.0))
    records.append(record(trained + 1, 0.5, 1.0, state="failed"))
    on_front = set(range(0, trained, 3))
    chosen = choose_members(records, on_front, count, seed)
    numbers = [member.number for member in chosen]
    assert len(set(numbers)) == len(numbers) == min(count, trained)
    assert set(numbers) <= set(range(trained))
    assert sum(member.on_front for member in chosen) >= min(len(on_front), count // 2, len(chosen))
    assert chosen == choose_members(records, on_front, count, seed)
    grown = choose_members(records, on_front, count + 4, seed, chosen)
    assert grown[: len(chosen)] == chosen
    if trained >= 40 and count >= 16 and not on_front:
        held = Counter(member.stratum for member in chosen)
        assert len(held) == LOSS_BINS * PARAMS_BINS


def test_strata_are_filled_evenly() -> None:
    rng = np.random.default_rng(0)
    records = [record(number, *rng.uniform(1, 9, size=2)) for number in range(200)]
    held = Counter(member.stratum for member in choose_members(records, (), 24, seed=1))
    assert set(held.values()) == {3}
    assert len(held) == LOSS_BINS * PARAMS_BINS
    different = choose_members(records, (), 24, seed=2)
    assert different != choose_members(records, (), 24, seed=1)


def test_end_to_end(study: Study, tmp_path: Path) -> None:
    audit = open_audit(study, 3, COUNT)
    assert len(audit.members) == COUNT
    assert {member.stratum for member in audit.members} > {(0, 0)} or COUNT < 8
    done: list[int] = []
    train_runs(audit, 1, "cpu", on_done=lambda item: done.append(item.left))
    assert done == list(range(COUNT))[::-1]
    settings = long_settings(audit)
    proxy = study.space.proxy
    assert settings.tokens == 3 * proxy.tokens
    assert (settings.lr, settings.order_seed, settings.seq_len) == (
        proxy.lr,
        study.settings.seed,
        proxy.seq_len,
    )
    results = audit.results()
    actual = report(audit)
    assert len(actual.points) == COUNT
    records = {item.number: item for item in study.records()}
    for point in actual.points:
        (result,) = results[point.record.hash]
        assert result["tokens"] == settings.steps * proxy.batch_tokens == 3 * 2048
        assert point.long_losses == (result["val_loss"],)
        assert point.proxy_loss == records[point.record.number].metrics["val_loss"]
        curve = (audit.folder / f"{point.record.hash}-0.jsonl").read_text().splitlines()
        assert json.loads(curve[-1])["tokens"] == result["tokens"]
    proxy_losses = np.array([point.proxy_loss for point in actual.points])
    long_losses = np.array([point.long_loss for point in actual.points])
    assert row_of(actual, PROXY).spearman.value == pytest.approx(float(spearman(proxy_losses, long_losses)))
    assert row_of(actual, PROXY).kendall.value == pytest.approx(float(kendall(proxy_losses, long_losses)))
    early = row_of(actual, "loss at 50% of it")
    expected = [
        next(entry["val_loss"] for entry in study.curve(point.record.number) if "val_loss" in entry)
        for point in actual.points
    ]
    assert early.spearman.value == pytest.approx(float(spearman(np.array(expected), long_losses)))
    assert early.count == COUNT
    assert "too few" in actual.verdict  # COUNT < FEWEST
    data = json.loads(json.dumps(actual.to_dict(), allow_nan=False))
    assert data["long_tokens"] == 3 * data["proxy_tokens"]
    assert {row["predictor"] for row in data["predictors"]} >= {
        PROXY,
        "parameters only",
        "FLOPs only",
    }
    for name, start in (("audit.png", b"\x89PNG"), ("audit.html", b"<!doctype html>")):
        plot_audit(actual, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_what_is_done_is_kept(study: Study) -> None:
    audit = open_audit(study, 2, 3)
    train_runs(audit, 1, "cpu")
    before = {path.name: path.read_bytes() for path in audit.folder.glob("*-0.json")}
    assert len(before) == 3
    wider = open_audit(study, 2, 4)
    assert wider.members[:3] == audit.members
    done: list[str] = []
    train_runs(wider, 2, "cpu", on_done=lambda item: done.append(item.run.result.name))
    assert len(done) == 4 * 2 - 3
    assert not set(done) & set(before)
    assert {
        path.name: path.read_bytes() for path in audit.folder.glob("*-0.json") if path.name in before
    } == before
    fewer = open_audit(study, 2, 2)
    assert len(fewer.runs(1)) == 2
    assert len(report(fewer).points) == 4  # what was measured counts
    assert all(len(point.long_losses) == 2 for point in report(fewer).points)
    losses = [point.long_losses for point in report(fewer).points]
    assert all(one != other for one, other in losses)  # two seeds


def test_a_killed_run_starts_again_and_gives_the_same(study: Study) -> None:
    audit = open_audit(study, 2, 2)
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps > 5

    with pytest.raises(Interrupted):
        train_runs(audit, 1, "cpu", should_stop=stop)
    assert audit.results() == {member.hash: [] for member in audit.members}
    train_runs(audit, 1, "cpu")
    first = {key: value[0]["val_loss"] for key, value in audit.results().items()}
    for run in audit.runs(1):
        run.result.unlink()
    train_runs(open_audit(study, 2, 2), 1, "cpu")
    assert {key: value[0]["val_loss"] for key, value in audit.results().items()} == first


def _claim(folder: str, started: object, free: object) -> None:
    audit = open_audit(Study.open(folder), 2, 2)
    with audit.runs(1)[0].claimed() as mine:
        assert mine
        started.set()  # type: ignore[attr-defined]
        free.wait()  # type: ignore[attr-defined]


def test_a_run_is_trained_by_one_process_only(study: Study) -> None:
    audit = open_audit(study, 2, 2)
    run = audit.runs(1)[0]
    context = multiprocessing.get_context("fork")
    started, free = context.Event(), context.Event()
    other = context.Process(target=_claim, args=(str(study.folder), started, free), daemon=True)
    other.start()
    assert started.wait()
    with run.claimed() as mine:
        assert not mine
    other.kill()  # its claim dies with it
    other.join()
    with run.claimed() as mine:
        assert mine
        run.result.write_text("{}")
    with run.claimed() as mine:
        assert not mine  # it has a result


def test_helpers_share_the_work(study: Study) -> None:
    audit = open_audit(study, 2, 4)
    done: list[str] = []
    with helpers(audit, 1, 1, "cpu"):
        train_runs(audit, 1, "cpu", on_done=lambda item: done.append(item.run.result.name))
    assert len(list(audit.folder.glob("*-0.json"))) == 4
    assert sorted(done) == sorted(run.result.name for run in audit.runs(1))  # the helper's are reported too


def test_diverged_runs_are_told_not_ranked(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies.audit import runs
    from studies.training.errors import TrainingFailed

    audit = open_audit(study, 2, 3)
    bad = audit.members[1]
    real = runs.train

    def train(model: object, *args: object, **options: object) -> object:
        if model.architecture.hash == bad.hash:  # type: ignore[attr-defined]
            raise TrainingFailed("the loss became nan at step 3")
        return real(model, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "train", train)
    train_runs(audit, 1, "cpu")
    result = report(audit)
    assert result.failed == {bad.number: "the loss became nan at step 3"}
    assert len(result.points) == 2
    assert json.dumps(result.to_dict(), allow_nan=False)


def test_too_early(make_study: MakeStudy) -> None:
    with pytest.raises(UserError, match="nothing to rank"):
        open_audit(make_study(), 4, 8)


def test_the_plan_is_recorded(study: Study) -> None:
    audit: Audit = open_audit(study, 4, 6)
    plan = json.loads((study.folder / "audit" / "4x" / "plan.json").read_text())
    assert [item["number"] for item in plan["members"]] == [member.number for member in audit.members]
    assert isinstance(plan["seed"], int)


def test_verdicts() -> None:
    good, unsure, bad = Estimate(0.9, 0.8, 0.96), Estimate(0.75, 0.5, 0.9), Estimate(0.3, -0.1, 0.6)
    ahead = Estimate(0.4, 0.1, 0.6)
    text = verdict(24, WORDS, good, good, ahead)
    assert text.startswith("Good")
    assert "0.80 to 0.96" in text
    assert "ranks better than parameters only" in text
    assert verdict(24, WORDS, unsure, good, ahead).startswith("Unclear")
    assert verdict(24, WORDS, bad, good, ahead).startswith("Bad")
    assert "still unclear" in verdict(24, WORDS, good, bad, ahead)
    assert "still unclear whether it ranks better than parameters only" in verdict(
        24, WORDS, good, good, Estimate(0.1, -0.1, 0.3)
    )
    assert "misleads" in verdict(24, WORDS, good, Estimate(-0.5, -0.8, -0.2), ahead)
    assert "but parameters only rank better" in verdict(24, WORDS, good, good, Estimate(-0.3, -0.5, -0.1))
    assert "do not vary enough" in verdict(24, WORDS, good, NONE, ahead)
    few = verdict(FEWEST - 1, WORDS, good, good, ahead)
    assert few.startswith("Can't tell")
    assert "too few" in few
