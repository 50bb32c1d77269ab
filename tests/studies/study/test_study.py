"""Studies: what is queued, what is trained, what is refused, when they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces import SearchSpace, parse_space
from studies.data import TokenData
from studies.search import assignment as trials
from studies.study import Study
from studies.study.lookup import list_studies
from studies.training.errors import TrainingFailed
from studies.workers import worker as worker_module
from studies.workers.worker import FAILURES_IN_A_ROW, work
from surgery.config.problems import UserError
from tests.studies.conftest import SPACE, MakeStudy, outcome, study_settings

Quiet = Callable[[str], None]
FEW = """
hdpl.projections: {subset: [q, k]}
  hdpl.blocks: {choice: [1, 2]}
  hdpl.rank: 2
  hdpl.kl: mean
  hdpl.kl_weight: 0
"""
FINITE = SPACE[: SPACE.index("hdpl.projections")] + FEW.lstrip() + SPACE[SPACE.index("constraints") :]
FINITE = FINITE.replace("13k", "13.6k")


def test_baselines_come_first(make_study: MakeStudy, quiet: Quiet) -> None:
    study = make_study()
    assert [record.baseline for record in study.records()] == ["dense", "hdpl-paper", "lt2-looped"]
    assert {record.state for record in study.records()} == {"waiting"}
    assert work(study, target=4, device="cpu", log=quiet) == "4 architectures are trained"
    records = study.records()
    assert [record.baseline for record in records[:3]] == ["dense", "hdpl-paper", "lt2-looped"]
    assert [record.state for record in records[:3]] == ["trained"] * 3
    for record in records[:3]:
        assert record.hash == study.space.baselines[record.baseline or ""].hash
    # breaks the constraint, and is trained all the same
    assert study.space.violations(records[1].build())


def test_a_trial_tells_everything(make_study: MakeStudy, quiet: Quiet) -> None:
    study = make_study()
    work(study, target=1, device="cpu", log=quiet)
    record = study.record(0)
    assert record.values == tuple(record.metrics[item.name] for item in study.space.objectives)
    assert record.metrics["params"] == 13392
    assert {"val_loss", "val_bpb", "train_tokens_per_s", "peak_memory"} <= set(record.metrics)
    assert record.seconds > 0
    assert len(record.seeds) == 1
    assert {"device", "torch", "threads"} <= set(record.environment)
    folder = study.folder / "trials" / "00000"
    assert {path.name for path in folder.iterdir()} == {"architecture.yaml", "curve.jsonl"}
    assert study.curve(0)[-1]["val_loss"] == record.metrics["val_loss"]
    front = json.loads((study.folder / "front.json").read_text())
    assert front["objectives"] == {"val_loss": "min", "params": "min", "decode_flops@64": "min"}
    assert not record.feasible  # 13,392 parameters where 13k are allowed
    assert front["front"] == []


def test_an_architecture_trains_the_same_in_any_study(make_study: MakeStudy, quiet: Quiet) -> None:
    first, second = (
        make_study("a"),
        make_study("b", text=SPACE.replace("[dense, ", "[").replace("13k", "14k")),
    )
    work(first, target=3, device="cpu", log=quiet)
    work(second, target=2, device="cpu", log=quiet)
    assert [record.values for record in first.records()[1:3]] == [
        record.values for record in second.records()[:2]
    ]
    other = make_study("c", seed=1)
    work(other, target=1, device="cpu", log=quiet)
    assert other.record(0).values != first.record(0).values


def test_several_seeds_are_averaged(make_study: MakeStudy, quiet: Quiet) -> None:
    study = make_study(text=SPACE.replace("eval_tokens", "seeds: 2, eval_tokens"))
    work(study, target=1, device="cpu", log=quiet)
    record = study.record(0)
    last = [
        json.loads((study.folder / "trials" / "00000" / name).read_text().splitlines()[-1])["val_loss"]
        for name in ("curve.jsonl", "curve-1.jsonl")
    ]
    assert len(set(last)) == len(set(record.seeds)) == 2
    assert record.metrics["val_loss"] == pytest.approx(sum(last) / 2)


def test_infeasible_is_never_trained(make_study: MakeStudy, quiet: Quiet) -> None:
    study = make_study(text=SPACE.replace("13k", "12.4k"))
    work(study, target=6, device="cpu", log=quiet)
    infeasible = [record for record in study.records() if record.state == "infeasible"]
    assert infeasible
    for record in infeasible:
        assert study.space.violations(record.build())
        assert "params" in record.reason
        assert record.values is None
        assert not (study.folder / "trials" / f"{record.number:05d}").exists()
    for record in study.records()[3:]:
        assert record.state != "trained" or not study.space.violations(record.build())


def test_a_finite_space_ends_with_each_architecture_trained_once(
    make_study: MakeStudy, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "MOST_SKIPS", 80)
    study = make_study(text=FINITE)
    assert study.space.size().count == 7
    assert "exhausted" in work(study, target=50, device="cpu", log=quiet)
    records = study.records()
    trained = [record for record in records if record.state == "trained"]
    every = {study.space.sample_random(seed).hash for seed in range(200)}
    infeasible = {record.hash for record in records if record.state == "infeasible"}
    assert len({record.hash for record in trained}) == len(trained)
    assert infeasible
    assert every <= infeasible | {record.hash for record in trained}
    duplicates = [record for record in records if record.state == "duplicate"]
    by_hash = {record.hash: record for record in trained}
    assert duplicates
    for record in duplicates:
        assert record.values == by_hash[record.hash].values
        assert record.metrics == by_hash[record.hash].metrics
        assert record.seconds == 0
    before = len(records)
    assert "exhausted" in work(study, target=50, device="cpu", log=quiet)
    assert len(study.records()) == before


def test_resume_goes_on(make_study: MakeStudy, tokens: TokenData, quiet: Quiet) -> None:
    whole = make_study("whole")
    work(whole, target=5, device="cpu", log=quiet)
    study = make_study("study")
    for target in (1, 3, 3, 5):
        study, resumed = Study.create_or_resume(
            "study", study.space, study_settings(tokens), study.folder.parent
        )
        assert resumed
        work(study, target=target, device="cpu", log=quiet)
        assert sum(record.counted for record in study.records()) == target
    assert outcome(study) == outcome(whole)


def test_another_spelling_is_no_change(make_study: MakeStudy, tokens: TokenData) -> None:
    study = make_study()
    text = SPACE.replace("13k", "13000").replace("name: small", "name: other  # a comment")
    _, resumed = Study.create_or_resume(
        "study", parse_space(text, "x.yaml"), study_settings(tokens), study.folder.parent
    )
    assert resumed


def test_changes_are_refused_by_name(make_study: MakeStudy, tokens: TokenData) -> None:
    study = make_study()
    text = SPACE.replace("[2, 4, 8]", "[2, 4, 16]").replace("lr: 1e-2", "lr: 2e-2").replace("13k", "14k")
    settings = replace(study_settings(tokens, seed=3, sampler="nsga2"), data_hash="f00", corpus="fineweb-edu")
    before = (study.folder / "journal.log").read_bytes()
    with pytest.raises(UserError, match="started differently") as caught:
        Study.create_or_resume("study", parse_space(text, "x.yaml"), settings, study.folder.parent)
    message = str(caught.value)
    assert "search.hdpl.rank: {choice: [2, 4, 8]} -> {choice: [2, 4, 16]}" in message
    assert "proxy.lr: 0.01 -> 0.02" in message
    assert "constraints" in message
    fields = [problem.field for problem in caught.value.problems]
    assert fields == ["search.hdpl.rank", "constraints", "proxy.lr", "seed", "sampler", "corpus"]
    assert "seed: 0 -> 3" in message
    assert (study.folder / "journal.log").read_bytes() == before


@pytest.mark.parametrize(("key", "old", "new"), [("threads", 3, 7), ("cpu_precision", "bfloat16", "float32")])
def test_threads_and_precision_stay_those_of_the_start(
    key: str, old: object, new: object, make_study: MakeStudy, tokens: TokenData
) -> None:
    """Both change the last bits of a loss: a resumed study keeps its own, and refuses to be given others."""
    space, runs = make_study("other").space, make_study("another").folder.parent
    first, default = (replace(study_settings(tokens), **{key: value}) for value in (old, new))
    study, _ = Study.create_or_resume("study", space, first, runs)
    assert getattr(study.settings, key) == old
    for settings, unasked in ((first, []), (first, [key]), (default, [key])):
        again, resumed = Study.create_or_resume("study", space, settings, runs, unasked=unasked)
        assert resumed
        assert getattr(again.settings, key) == old
    with pytest.raises(UserError, match=f"{key}: {old} -> {new}"):
        Study.create_or_resume("study", space, default, runs)


def test_unknown_study_is_told_with_the_nearest(make_study: MakeStudy) -> None:
    study = make_study("hybrids")
    with pytest.raises(UserError, match='did you mean "hybrids"'):
        Study.open("hybrid", study.folder.parent)
    assert list_studies(study.folder.parent) == ["hybrids"]
    assert not (study.folder.parent / "hybrid").exists()
    with pytest.raises(UserError, match="nas search tiny starts one"):
        Study.open("x", study.folder / "nowhere")


def test_a_study_opens_by_its_path(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study()
    assert Study.open(str(study.folder), tmp_path / "elsewhere").space.digest == study.space.digest


def test_unknown_trial_is_told(make_study: MakeStudy) -> None:
    with pytest.raises(UserError, match="it has 0 to 2"):
        make_study().record(3)


def test_failures_have_a_reason_and_do_not_end_a_study(
    make_study: MakeStudy, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = worker_module.train, iter(range(100))

    def train(*args: object, **options: object) -> object:
        call = next(calls)
        if call == 1:
            raise TrainingFailed("the loss became nan at step 3")
        if call == 3:
            raise RuntimeError("out of memory")
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(worker_module, "train", train)
    study = make_study()
    work(study, target=6, device="cpu", log=quiet)
    failed = [record for record in study.records() if record.state == "failed"]
    assert [record.reason for record in failed] == [
        "the loss became nan at step 3",
        "RuntimeError: out of memory",
    ]
    folders = [study.folder / "trials" / f"{record.number:05d}" for record in failed]
    assert (folders[0] / "error.txt").read_text() == "the loss became nan at step 3"
    assert "Traceback" in (folders[1] / "error.txt").read_text()
    assert sum(record.state == "trained" for record in study.records()) == 4
    assert not {record.number for record in failed} & {record.number for record in study.front()}


def test_five_failures_in_a_row_end_it(
    make_study: MakeStudy, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*args: object, **options: object) -> object:
        raise RuntimeError("no kernel for this card")

    monkeypatch.setattr(worker_module, "train", train)
    study = make_study()
    with pytest.raises(UserError, match="5 trials failed in a row") as caught:
        work(study, target=50, device="cpu", log=quiet)
    assert "no kernel for this card" in str(caught.value)
    assert sum(record.state == "failed" for record in study.records()) == FAILURES_IN_A_ROW


def test_two_searches_may_start_the_same_study_at_once(
    space: SearchSpace, tokens: TokenData, tmp_path: Path
) -> None:
    def start(_: int) -> bool:
        return Study.create_or_resume("study", space, study_settings(tokens), tmp_path / "runs")[1]

    with ThreadPoolExecutor(4) as pool:
        resumed = list(pool.map(start, range(4)))
    assert sorted(resumed) == [False, True, True, True]
    assert len(Study.open("study", tmp_path / "runs").records()) == 3


def test_a_study_is_not_made_twice(make_study: MakeStudy) -> None:
    study = make_study()
    with pytest.raises(UserError, match="exists already"):
        make_study()
    assert len(study.records()) == 3


def test_other_data_is_refused_by_a_worker(make_study: MakeStudy, tokens: TokenData, quiet: Quiet) -> None:
    study = make_study()
    study.settings = replace(study.settings, data_hash="f00")
    with pytest.raises(UserError, match="differs from the study's f00"):
        work(study, target=1, device="cpu", log=quiet)


def test_text_that_is_too_small_ends_the_work_not_the_trials(make_study: MakeStudy, quiet: Quiet) -> None:
    text = SPACE.replace("seq_len: 32, batch_tokens: 512", "seq_len: 1048576, batch_tokens: 1048576")
    text = text.replace("tokens: 2048", "tokens: 2097152").replace(
        "eval_tokens: 1024", "eval_tokens: 1048576"
    )
    study = make_study(text=text)
    with pytest.raises(UserError, match="must hold a sequence"):
        work(study, target=1, device="cpu", log=quiet)
    assert {record.state for record in study.records()} == {"waiting"}
