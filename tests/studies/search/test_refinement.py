"""The choice of architectures to train again, and its end; replicates keep all guarantees of trials."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

from studies.analysis.standings import Standings
from studies.data import TokenData
from studies.search.assignment import Assignment, Nothing, finish, take
from studies.search.refinement import FEWEST_DF, doubt, next_run, take_repeat
from studies.search.requeue import requeue
from studies.search.samplers import SeededSampler
from studies.stats.seeds import derive_seed
from studies.storage.attributes import BASELINE
from studies.study import Study
from studies.study.leases import Lease
from studies.study.replicates import mean_over_runs
from studies.study.trial_record import TrialRecord
from studies.training.loop import train
from studies.workers.proxy import train_settings
from studies.workers.supervisor import Supervisor
from studies.workers.worker import work
from surgery.model import HybridLM
from tests.studies.conftest import SPACE, MakeStudy, outcome, search_of
from tests.studies.held import Hold
from tests.studies.refined import refined, true_front
from tests.studies.tables import OBJECTIVES, TWO_MEASURED, record, repeat, study_of

Quiet = Callable[[str], None]
ROOMY = SPACE.replace("13k", "20k")  # every baseline is within the limit


def is_settled(records: list[TrialRecord], standings: Standings, most: int) -> bool:
    """Return whether no run is left: each architecture is decided, or not after `most` runs."""
    return standings.noise is not None and next_run(records, standings, most) is None


def settle(
    losses: list[float], params: list[float], sd: float, most: int, seed: int = 0
) -> tuple[list[TrialRecord], Counter[int]]:
    """Merged records after refining, and how often each architecture was repeated."""
    records = refined(losses, params, sd, most, np.random.default_rng(seed))
    return mean_over_runs(records), Counter(item.repeat_of for item in records if item.repeat_of is not None)


def test_a_result_is_the_mean_over_runs() -> None:
    records = [
        record(0, [(3.0, 5.0)], metrics={"val_loss": 3.0, "params": 5.0}),
        record(1, [(4.0, 7.0)]),
        replace(repeat(2, 0, 1, (3.5, 5.0)), metrics={"val_loss": 3.5, "params": 5.0}),
        repeat(3, 1, 1, None),
        replace(repeat(4, 0, 1, (9.0, 5.0)), metrics={"val_loss": 9.0}),  # the same seeds a second time
        replace(repeat(5, 1, 2, None), state="repeat failed"),
    ]
    merged = mean_over_runs(records)
    assert merged[0].values == (3.25, 5.0)
    assert merged[0].metrics == {"val_loss": 3.25, "params": 5.0}
    assert [run.trial for run in merged[0].runs] == [0, 2]
    assert merged[1].values == (4.0, 7.0)
    assert merged[1].failed_runs == 1
    assert merged[2:] == records[2:]


def test_the_noise_is_known_first() -> None:
    """A front of three: each again, then each once more; nothing else as long as it is alone."""
    merged, spent = settle([1.0, 2.0, 3.0, 9.0], [30.0, 20.0, 10.0, 40.0], 0.001, 5)
    assert sum(spent.values()) == FEWEST_DF
    assert Standings(merged, OBJECTIVES, 0).noise is not None
    assert set(spent) == {0, 1, 2, 3}  # the front has fewer than six: the next best too
    assert is_settled(merged, Standings(merged, OBJECTIVES, 0), 5)


def test_runs_go_to_what_is_undecided() -> None:
    """Twelve far apart and one pair that is not: its two get the runs."""
    losses = [5.0 - 0.2 * index for index in range(12)]
    params = [10.0 * (1 + index) for index in range(12)]
    losses += [losses[6]]
    params += [params[6] + 1]  # dearer than 6 and as good: on the front or not?
    undecided = 0
    for seed in range(6):
        merged, spent = settle(losses, params, 0.01, 6, seed)
        assert sum(spent.values()) >= FEWEST_DF
        assert {number for number, count in spent.items() if count > 1} <= {6, 12}
        assert abs(spent[6] - spent[12]) <= 1
        assert is_settled(merged, Standings(merged, OBJECTIVES, 0), 6)
        undecided += sum(spent.values()) > FEWEST_DF
    assert undecided >= 3


def test_a_tie_ends() -> None:
    merged, spent = settle([3.0, 3.0], [10.0, 20.0], 0.01, 4)
    assert max(spent.values()) <= 3
    standings = Standings(merged, OBJECTIVES, 0)
    assert is_settled(merged, standings, 4)
    assert standings.tied(standings.rows[0], standings.rows[1])
    assert not is_settled(merged, standings, 5) or not standings.undecided


def test_what_is_sure_is_right() -> None:
    """Over made-up studies: of the places called sure, nine in ten at least are where the truth is, and fresh
    seeds fall into their intervals although what was repeated was chosen for its first run."""
    right = total = covered = held_out = 0
    for seed in range(12):
        random = np.random.default_rng(100 + seed)
        params = list(map(float, range(10, 210, 10)))
        losses = [5 - size / 100 + 0.1 * random.normal() for size in params]
        merged, _ = settle(losses, params, 0.05, 5, seed)
        best = true_front(losses)
        standings = Standings(merged, OBJECTIVES, 0)
        covered += standings.coverage["val_loss"].covered
        held_out += standings.coverage["val_loss"].held_out
        for row in standings.rows:
            if not row.undecided:
                total += 1
                right += row.on_front == (row.record.number in best)
    assert total > 150
    assert right / total > 0.9
    assert held_out > 200
    assert 0.85 < covered / held_out < 0.95


def test_running_repeats_count() -> None:
    """Workers that choose at the same moment choose differently."""
    records = study_of({0: [1.0], 1: [2.0], 2: [3.0]}, [30.0, 20.0, 10.0])
    chosen = []
    for index in range(FEWEST_DF):
        result = next_run(records, Standings(records, OBJECTIVES, 0), 5)
        assert result is not None
        chosen.append(result.number)
        records.append(repeat(len(records), result.number, index, None))
    assert sorted(chosen) == [0, 0, 1, 1, 2, 2]
    assert chosen[:3] == [0, 1, 2]
    assert next_run(records, Standings(records, OBJECTIVES, 0), 5) is None  # until one ends


def test_several_measured_objectives() -> None:
    random = np.random.default_rng(0)
    records = [
        record(number, [(3.0 + 0.01 * random.normal(), 10.0, 0.5 + 0.1 * random.normal()) for _ in range(3)])
        for number in range(4)
    ]
    records.append(record(4, [(2.0, 20.0, 0.1)]))
    standings = Standings(records, TWO_MEASURED, 0)
    assert standings.noise is not None
    assert standings.noise.df == 8
    assert set(standings.coverage) == {"val_loss", "recall"}
    row = standings.standing(records[0])
    assert row.half[1] is None
    assert row.half[0] is not None
    assert row.half[2] is not None
    assert row.half[2] > 5 * row.half[0]
    assert standings.standing(records[4]).p_front == 1
    assert (
        sum(result.p_front or 0 for result in standings.rows) > 2
    )  # either objective keeps one on the front
    assert set(doubt(standings)) >= {result.record.number for result in standings.undecided}
    broken = standings.standing(record(9, [(1.0, 1.0, 1.0)], feasible=False))
    assert broken.p_front is None
    assert not broken.on_front


@pytest.fixture
def trained(make_study: MakeStudy, quiet: Quiet) -> Study:
    study = make_study(text=ROOMY)
    work(study, target=5, device="cpu", log=quiet)
    return study


def repeats(study: Study) -> list[TrialRecord]:
    return [item for item in study.records() if item.repeat_of is not None]


def refine(study: Study, target: int | None, most: int = 3) -> str:
    return work(
        study, target=target, device="cpu", log=lambda line: None, take_next=partial(take_repeat, most=most)
    )


def test_refining_for_real(trained: Study, tokens: TokenData, quiet: Quiet) -> None:
    before, front = trained.records(), trained.front()
    assert refine(trained, 4) == "4 repeats are trained"
    records = trained.records()
    actual = repeats(trained)
    assert [item.state for item in actual] == ["repeat"] * 4
    assert {item.repeat_of for item in actual[: len(front)]} <= {
        item.number for item in records[: len(before)]
    }
    for item in actual:
        original = before[item.repeat_of or 0]
        assert (item.hash, item.line, item.params) == (original.hash, original.line, original.params)
        assert item.baseline is None
        assert item.seeds == (derive_seed(0, original.hash, item.repeat),)
        assert item.seeds != original.seeds
        assert item.values is not None
        assert original.values is not None
        assert item.values[0] != original.values[0]
        assert item.values[1:] == original.values[1:]
    # the same training as any other, and the result is the mean
    first = actual[0]
    torch.manual_seed(first.seeds[0])
    result = train(
        HybridLM(first.build()), tokens, train_settings(trained.space, 0), seed=first.seeds[0],
        device=torch.device("cpu"),
    )  # fmt: skip
    assert first.values is not None
    assert first.values[0] == result.val_loss
    number = first.repeat_of
    assert number is not None
    losses = [run.values[0] for run in records[number].runs]
    assert records[number].metrics["val_loss"] == fmean(losses) == records[number].values[0]  # type: ignore[index]
    # no architecture of its own anywhere
    assert sum(item.counted for item in records) == 5
    assert not {item.number for item in trained.front()} & {item.number for item in actual}
    # the search resumes: it sees neither a duplicate nor new observations
    seen = SeededSampler("tpe", 0)._view(trained.inner)._get_trials(deepcopy=False)
    assert [trial.number for trial in seen] == [item.number for item in before]
    assert seen[number].values == list(records[number].values or ())
    assert trained.inner.trials[number].values == list(before[number].values or ())
    work(trained, target=6, device="cpu", log=quiet)
    assert trained.records()[-1].state == "trained"


def test_a_repeat_takes_as_many_seeds_as_a_trial(make_study: MakeStudy, quiet: Quiet) -> None:
    study = make_study(text=ROOMY.replace("proxy: {", "proxy: {seeds: 2, "))
    work(study, target=1, device="cpu", log=quiet)
    refine(study, 2)
    (first, *again), hash = study.records()[:1] + repeats(study), study.record(0).hash
    assert first.seeds == (derive_seed(0, hash, 0), derive_seed(0, hash, 1))
    assert [item.seeds for item in again] == [
        (derive_seed(0, hash, 2), derive_seed(0, hash, 3)),
        (derive_seed(0, hash, 4), derive_seed(0, hash, 5)),
    ]


def test_other_storages_refine_the_same(make_study: MakeStudy, tmp_path: Path, quiet: Quiet) -> None:
    embedded = make_study("embedded", text=ROOMY)
    elsewhere = make_study("elsewhere", text=ROOMY, url=f"sqlite:///{tmp_path / 'studies.db'}")
    for study in (embedded, elsewhere):
        work(study, target=3, device="cpu", log=quiet)
        refine(study, 3)
    assert outcome(elsewhere) == outcome(embedded)
    assert len(repeats(elsewhere)) == 3


def test_until_nothing_is_left(trained: Study) -> None:
    reason = refine(trained, None, most=2)
    assert "nothing is left to repeat" in reason
    runs = Counter(item.repeat_of for item in repeats(trained) if not item.confirms)
    assert set(runs.values()) == {1}
    confirmed = Counter(item.repeat_of for item in repeats(trained) if item.confirms)
    assert set(confirmed.values()) == {2}
    assert Standings.of(trained).best[0].record.number in confirmed
    seeds = [item.seeds for item in trained.records()]
    assert len(set(seeds)) == len(seeds)
    assert refine(trained, None, most=2) == reason


def test_interrupted_refining_ends_the_same(make_study: MakeStudy, quiet: Quiet) -> None:
    whole, broken = make_study("whole"), make_study("broken")
    for study in (whole, broken):
        work(study, target=4, device="cpu", log=quiet)
    refine(whole, 5)
    refine(broken, 1)
    with Lease(broken.workers_folder) as lease:
        stopped = take_repeat(search_of(broken), lease.worker, None)
        assert isinstance(stopped, Assignment)
        requeue(broken, stopped.trial.number)  # Ctrl-C
    with Lease(broken.workers_folder) as lease:
        assert isinstance(take_repeat(search_of(broken), lease.worker, None), Assignment)  # and killed
    refine(Study.open(str(broken.folder)), 5)
    assert outcome(broken) == outcome(whole)
    assert [item.repeat_of for item in broken.records()] == [item.repeat_of for item in whole.records()]


def test_a_search_takes_up_what_refining_left(trained: Study, quiet: Quiet) -> None:
    with Lease(trained.workers_folder) as lease:
        left = take_repeat(search_of(trained), lease.worker, None)
        assert isinstance(left, Assignment)
        requeue(trained, left.trial.number)
    work(trained, target=6, device="cpu", log=quiet)
    records = trained.records()
    assert records[left.trial.number].state == "repeat"
    assert sum(item.counted for item in records) == 6


def test_a_baseline_outside_of_the_space_is_repeated(make_study: MakeStudy, quiet: Quiet) -> None:
    study = make_study(text=ROOMY.replace("{range: [1, 3]}", "{range: [1, 2]}"))
    work(study, target=3, device="cpu", log=quiet)
    looped = study.record(2)
    assert looped.baseline == "lt2-looped"
    assert looped.params == {}
    refine(study, None, most=2)
    again = next(item for item in repeats(study) if item.repeat_of == 2)
    assert again.hash == looped.hash
    assert BASELINE not in study.inner.trials[again.number].user_attrs


def test_an_orphaned_repeat_is_run_again(trained: Study) -> None:
    with Lease(trained.workers_folder) as dead:
        first = take_repeat(search_of(trained), dead.worker, 1)
        assert isinstance(first, Assignment)
        assert take_repeat(search_of(trained), dead.worker, 1) == Nothing(wait=True)
        assert trained.record(first.trial.number).state == "repeat running"
        assert take(search_of(trained), dead.worker, 5) == Nothing(False, "5 architectures are trained")
    with Lease(trained.workers_folder) as alive:
        again = take_repeat(search_of(trained), alive.worker, 1)
        assert isinstance(again, Assignment)
        assert again.trial.number == first.trial.number
        assert again.architecture == first.architecture
        assert not finish(trained, first.trial, dead.worker, {}, [1.0, 2.0, 3.0])
        assert finish(trained, again.trial, alive.worker, {}, None)
    assert trained.record(first.trial.number).state == "repeat failed"
    assert trained.record(first.trial.number - 1).number == first.trial.number - 1
    original = trained.record(trained.record(first.trial.number).repeat_of or 0)
    assert original.failed_runs == 1
    assert len(original.runs) == 1


def test_failed_repeats_do_not_go_on_for_ever(trained: Study) -> None:
    with Lease(trained.workers_folder) as lease:
        for _ in range(50):
            taken = take_repeat(search_of(trained), lease.worker, None, most=3)
            if isinstance(taken, Nothing):
                break
            finish(trained, taken.trial, lease.worker, {}, None)
    assert isinstance(taken, Nothing)
    assert not taken.wait
    rows = Standings.of(trained).rows
    assert [row.record.failed_runs for row in rows] == [2] * len(rows)
    assert len(repeats(trained)) == 2 * len(rows)


def test_two_workers_one_killed_in_a_repeat(make_study: MakeStudy, quiet: Quiet, hold: Hold) -> None:
    study = make_study(text=ROOMY)
    work(study, target=3, device="cpu", log=quiet)
    hold.start()
    supervisor = Supervisor(study, workers=2, target=5, device="cpu", refine=4)
    killed: dict[int, int] = {}
    last: Any = None
    for snapshot in supervisor.watch():
        last = snapshot
        if not killed and len(busy := hold.waiting()) == 2:
            killed = dict(list(busy.items())[:1])
            os.kill(next(iter(killed)), signal.SIGKILL)
            hold.release()
    assert killed
    assert supervisor.respawned == 1
    assert not supervisor.failed, supervisor.last_output()
    result = repeats(study)
    assert [item.state for item in result] == ["repeat"] * 5
    assert last.ended == last.trained_here == 5
    assert study.record(next(iter(killed.values()))).state == "repeat"
    assert len({item.seeds for item in study.records()}) == 8
    assert not list(Path(study.workers_folder).iterdir())
