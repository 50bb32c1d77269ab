"""Training the runs of an audit in any number of processes: none twice, and killed runs from scratch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from studies.audit.plan import Audit, Run, open_audit
from studies.audit.settings import long_settings
from studies.data import TokenData
from studies.files.json_file import read_json, write_json
from studies.stats.seeds import derive_seed
from studies.storage.opening import explain_storage_errors
from studies.study import Study
from studies.training.devices import describe, pick_device
from studies.training.errors import TrainingFailed
from studies.training.loop import Interrupted, Progress, train
from studies.workers.proxy import open_data
from studies.workers.supervisor import worker_device
from surgery.model import HybridLM

if TYPE_CHECKING:
    from studies.audit.healed import HealedRuns

WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Done:
    """A run that just ended, in any process. `left` is the number of runs without a result."""

    run: Run
    result: dict[str, Any]
    left: int


OnDone = Callable[[Done], None]
OnStep = Callable[[Run | None, Progress], None]


def train_runs(
    audit: Audit,
    seeds: int,
    device: str = "auto",
    on_done: OnDone | None = None,
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] | None = None,
    control: bool = True,
    on_control: Callable[[dict[str, float | None]], None] | None = None,
) -> None:
    """Train runs until every run has a result, from this process or another.

    Args:
        audit: the audit.
        seeds: runs of each architecture.
        device: where to train.
        on_done: called as runs end, in any process.
        on_step: called after every step of a run here, or of the control, which is no run: None.
        should_stop: asked after every step.
        control: train the control of healed designs first, unless it is known; one process should.
        on_control: called with the control's losses when it was trained.

    Raises:
        UserError: data, device or folder are not usable here, or this version trains by other rules than
            the study's trials.
        Interrupted: `should_stop` returned True.
    """
    chosen = pick_device(device)
    torch.set_num_threads(audit.study.settings.threads)
    data = open_data(audit.study)
    runs = audit.runs(seeds)
    left = [run for run in runs if not run.result.exists()]
    if left:
        audit.study.refuse_changed_rules()

    def report_ended() -> None:
        """Report the runs that ended since the last call, here or in other processes."""
        for run in [run for run in left if run.result.exists()]:
            left.remove(run)
            if on_done is not None:
                on_done(Done(run, read_json(run.result) or {}, len(left)))

    healed = None
    if audit.heal is not None and left:
        from studies.audit.healed import HealedRuns  # with it come transformers and SciPy: seconds

        healed = HealedRuns(audit, data, chosen)
    if healed is not None and control:

        def step(progress: Progress) -> None:
            _stop_if(should_stop)
            if on_step is not None:
                on_step(None, progress)

        losses = healed.control(step)
        if losses is not None and on_control is not None:
            on_control(losses)
    with explain_storage_errors(audit.study.folder):
        while left:
            idle = True
            for run in tuple(left):
                with run.claimed() as mine:
                    if mine:
                        write_json(run.result, _train(audit, run, data, chosen, on_step, should_stop, healed))
                        idle = False
                report_ended()
            if idle and left:  # other processes train the rest
                if should_stop is not None and should_stop():
                    raise Interrupted
                time.sleep(WAIT_SECONDS)


@contextmanager
def helpers(audit: Audit, seeds: int, count: int, device: str) -> Iterator[None]:
    """Run `count` more processes that train runs of the audit until none is left or the block ends."""
    from multiprocessing import get_context

    study = audit.study
    where = (str(study.folder.resolve()), study.url, audit.times, audit.wanted, audit.heal, seeds)
    context = get_context("spawn")
    processes = [
        context.Process(
            target=_help, args=(*where, worker_device(device, index + 1), os.getpid()), daemon=True
        )
        for index in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _help(
    folder: str, url: str | None, times: int, architectures: int, heal: int | None, seeds: int, device: str,
    parent: int,
) -> None:  # fmt: skip
    """Train runs in a helper process, which ends with its parent even if that is killed."""
    import signal
    from contextlib import suppress

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its helpers
    audit = open_audit(Study.open(folder, Path(folder).parent, url), times, architectures, heal)
    with suppress(Interrupted):
        train_runs(audit, seeds, device, should_stop=lambda: os.getppid() != parent, control=False)


def _stop_if(should_stop: Callable[[], bool] | None) -> None:
    if should_stop is not None and should_stop():
        raise Interrupted


def _train(
    audit: Audit,
    run: Run,
    data: TokenData,
    device: torch.device,
    on_step: OnStep | None,
    should_stop: Callable[[], bool] | None,
    healed: HealedRuns | None,
) -> dict[str, Any]:
    """Train a run and return its measurements, or the reason for its failure.

    The seed differs from the proxy's: equal initial weights would make the two losses more similar than those
    of two independent trainings.
    """
    study = audit.study
    record = study.record(run.member.number)
    seed = derive_seed(study.settings.seed, record.hash, "audit", audit.times, run.repeat)
    torch.manual_seed(seed)
    about = {
        "number": record.number,
        "hash": record.hash,
        "architecture": record.line,
        "times": audit.times,
        "seed": seed,
        "environment": describe(device),
    }
    try:
        if healed is not None:
            step = None if on_step is None else partial(on_step, run)
            return {**about, **healed.heal(run, step, should_stop)}
        result = train(
            HybridLM(record.build()), data, long_settings(audit, record.steps), seed=seed, device=device,
            curve=run.curve,
            on_step=None if on_step is None else lambda progress: on_step(run, progress),
            should_stop=should_stop,
        )  # fmt: skip
    except TrainingFailed as error:
        return {**about, "failed": str(error)}
    return {**about, **asdict(result)}
