"""Searches for a latency: blocks are timed first, and the study keeps the times, which are invented here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from studies.analysis.limits import read_limits
from studies.analysis.pick import choose
from studies.analysis.standings import Standings
from studies.data import TokenData, prepare
from studies.study import Study
from studies.study.settings import MILP
from studies.study.trial_record import DONE
from studies.workers.latency import foreign_times
from studies.workers.worker import work
from surgery.architecture.block_times import BlockTimes
from surgery.architecture.costs import cost_in_steps
from surgery.config.problems import UserError
from tests.invented_times import invented_times, without_a_clock
from tests.pretrained import SPACE, begin, save_model
from tests.studies.conftest import SPACE as SMALL
from tests.studies.conftest import MakeStudy, outcome

DECODE = "decode_ms@64"
TIMED = SPACE.replace(
    "objectives: {kl: min,",
    'constraints: ["decode_ms@64 <= 90%"]\nobjectives: {kl: min, ' + f"{DECODE}: min,",
)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_HOME", str(folder))
        yield folder


def search(study: Study, target: int) -> list[str]:
    lines: list[str] = []
    work(study, target=target, device="cpu", log=lines.append)
    return lines


def opened(study: Study) -> Study:
    return Study.open(str(study.folder))


@pytest.fixture(scope="module")
def words(tokens: TokenData, tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """The text by a tokenizer of the model's size."""
    folder = tmp_path_factory.mktemp("words")
    return prepare(
        str(tokens.folder.parent / "docs.jsonl"), "bpe:320", folder / "tokens", min_val_tokens=2048
    )


@pytest.fixture
def pretrained(words: TokenData, tmp_path: Path) -> Any:
    model = save_model(tmp_path / "llama", words.folder)
    space = tmp_path / "small.yaml"
    space.write_text(TIMED)
    return lambda runs: begin(space, model, words.folder, tmp_path / runs)


def test_a_pretrained_search_solves_for_latency_and_keeps_its_times(pretrained: Any) -> None:
    study = pretrained("one")
    watched = opened(study)  # as the process that starts workers does
    assert watched.space.times is None
    with without_a_clock() as asked:
        lines = search(study, 5)
        resumed = pretrained("one")
        search(resumed, 10)
        other = pretrained("two")
        search(other, 10)
    replacements = study.space.replacements
    assert replacements is not None
    assert len(asked) == len(set(asked)) == 1 + 2 + 2  # the rest, F and W, two widths: each once, for both
    assert any("5 blocks are timed on" in line for line in lines)
    assert outcome(resumed) == outcome(other)

    times = invented_times()
    records = [record for record in opened(study).records() if record.state == DONE]
    assert len(records) == 10
    own = cost_in_steps(replacements.model, DECODE, times)
    for record in records:
        steps = cost_in_steps(record.build(), DECODE, times)
        assert record.metrics[DECODE] == steps / 1e6
        assert record.feasible == (steps <= round(0.9 * own))
    solved = [record.feasible for record in records if record.suggested_by == MILP]
    assert solved  # the solver keeps the limit; designs to beat need not
    assert all(solved)
    assert watched.space.times is not None
    # reading needs no device
    with without_a_clock() as asked:
        standings = Standings.of(opened(study))
        space = opened(study).space
        assert space.times is not None
        assert space.model is not None
        (limit,) = read_limits([f"{DECODE}<=80%"], space.model.architecture, space.times)
        chosen = choose(standings, [limit], "kl").record
        assert chosen.metrics[DECODE] <= 0.8 * own / 1e6
        assert asked == []


def test_another_machine_uses_the_times_and_says_so_but_adds_none(
    pretrained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = pretrained("runs")
    with without_a_clock():
        search(study, 4)
    machine = dict(opened(study).space.times.machine)  # type: ignore[union-attr]
    assert foreign_times(opened(study), torch.device("cpu")) == []
    for module in ("studies.latency.table", "studies.workers.latency"):
        monkeypatch.setattr(f"{module}.machine_of", lambda *setup: {**machine, "device": "slide rule"})
    with without_a_clock() as asked:
        lines = search(opened(study), 5)
    assert asked == []
    assert any("latencies are of" in line and "slide rule" in line for line in lines)
    missing = opened(study)
    stored = missing.stored_times()
    assert stored is not None
    stored.known.popitem()
    monkeypatch.setattr(Study, "stored_times", lambda self: stored)
    monkeypatch.setattr("studies.study.study.read_times", lambda inner: stored)
    with without_a_clock(), pytest.raises(UserError, match="1 of them are missing"):
        search(missing, 6)


def test_an_impossible_limit_is_refused_once_blocks_are_timed(pretrained: Any, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(TIMED.replace("90%", "0.5 ms"))
    with without_a_clock(), pytest.raises(UserError, match="no architecture of this space meets it"):
        search(pretrained("runs"), 4)


def test_a_search_from_scratch_times_blocks_as_well(make_study: MakeStudy) -> None:
    text = SMALL.replace("decode_flops@64: min", f"{DECODE}: min")
    for sampler in ("random", "gain"):
        study = make_study(sampler, text=text, sampler=sampler)
        with without_a_clock() as asked:
            search(study, 5)
        assert len(asked) == len(set(asked))
        records = [record for record in opened(study).records() if record.state == DONE]
        assert len(records) == 5
        for record in records:
            assert record.metrics[DECODE] == cost_in_steps(record.build(), DECODE, invented_times()) / 1e6


def test_blocks_that_were_not_met_are_timed_when_they_are(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search_spaces.timed_blocks.SAMPLES", 0)
    study = make_study(text=SMALL.replace("decode_flops@64: min", f"{DECODE}: min"), sampler="random")
    with without_a_clock() as asked:
        search(study, 6)
    stored = opened(study).stored_times()
    assert stored is not None
    assert set(asked) == set(stored.known)
    assert len(asked) == len(stored.known)


def test_a_study_without_latencies_has_no_times(make_study: MakeStudy, home: Path) -> None:
    study = make_study(sampler="random")
    search(study, 3)
    assert opened(study).stored_times() is None
    assert isinstance(study.space.times, BlockTimes | None)
    assert not (home / "latency").exists()
