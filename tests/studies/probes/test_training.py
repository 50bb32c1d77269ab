"""Training on either probe, by itself and as an objective of a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from search_spaces.probes.recall import Recall
from search_spaces.probes.state import State
from studies.probes import train_probe
from studies.training.errors import TrainingFailed
from studies.training.loop import Interrupted
from studies.workers.worker import work
from tests.studies.conftest import MakeStudy, outcome

from .small import CPU, RECALL, STATE, architecture, space_with


@pytest.mark.parametrize("chosen", [RECALL, STATE])
def test_it_can_be_stopped(chosen: Recall | State) -> None:
    calls = iter([False, False, True])
    with pytest.raises(Interrupted):
        train_probe(architecture(), chosen, 0, CPU, lambda: next(calls))


@pytest.mark.parametrize(("name", "chosen"), [("recall", RECALL), ("state", STATE)])
def test_a_failure_says_where(name: str, chosen: Recall | State) -> None:
    with pytest.raises(TrainingFailed, match=rf"in the {name} probe the .* at step \d+"):
        train_probe(architecture(), replace(chosen, lr=1e30), 0, CPU)


@pytest.mark.parametrize(
    "names", [pytest.param(["recall"], marks=pytest.mark.slow), ["recall", "state"]], ids=" and ".join
)
def test_a_study_with_probes(names: list[str], make_study: MakeStudy, quiet: Callable[[str], None]) -> None:
    text = space_with(*reversed(names))
    study = make_study(text=text)
    lines: list[str] = []
    work(study, target=4, device="cpu", log=lines.append)
    done = [record for record in study.records() if record.state == "trained"]
    assert len(done) == 4
    for record in done:
        assert record.values == tuple(record.metrics[item.name] for item in study.space.objectives)
    assert list(study.space.proxy.probes) == names
    first = done[0]
    allowed = [record for record in done if not study.space.violations(record.build())]
    for name, chosen in study.space.proxy.probes.items():
        assert all(0 <= record.metrics[name] <= 1 for record in done)
        assert any(f"{name} {first.metrics[name]:.3f}" in line for line in lines)
        assert first.metrics[name] == train_probe(first.build(), chosen, first.seeds[0], CPU)
        # more is better: the best of all that may be on the front is there
        best = max(record.metrics[name] for record in allowed)
        assert max(record.metrics[name] for record in study.front()) == best
    again = make_study("again", text=text)
    work(again, target=4, device="cpu", log=quiet)
    assert outcome(again) == outcome(study)
