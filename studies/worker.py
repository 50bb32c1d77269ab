"""A worker: takes trials, trains them, tells the study. Any number of them share one study."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from types import FrameType

import torch
from optuna.trial import TrialState

from search_spaces import SearchSpace
from studies.data import TokenData, prepare
from studies.devices import describe, pick_device
from studies.leases import Lease
from studies.records import ENVIRONMENT, METRICS, REASON, SECONDS, SEEDS
from studies.samplers import derive_seed
from studies.study import Study
from studies.training import Interrupted, Progress, TrainingFailed, TrainResult, TrainSettings, train
from studies.trials import HEARTBEAT, HEARTBEAT_SECONDS, Assignment, Nothing, put_back, take
from surgery.architecture import Architecture
from surgery.costs import METRICS as ALL_METRICS
from surgery.costs import cost
from surgery.model import HybridLM
from surgery.problems import Problem, UserError

FAILURES_IN_A_ROW = 5  # so many different architectures failing means that something else is wrong
Log = Callable[[str], None]


def work(study: Study, *, target: int | None, device: str = "auto", log: Log = print) -> str:
    """Trains trials until the study has `target` trained architectures or its space is exhausted.

    Returns why it ended. SIGINT and SIGTERM put the running trial back, to be run again from its start.

    Raises:
        UserError: device or data are not usable here.
        KeyboardInterrupt: asked to stop.
    """
    place = pick_device(device)
    torch.set_num_threads(study.settings.threads)
    data = open_data(study)
    lease = Lease(study.workers_folder)
    failures = 0
    try:
        with _stop_on_signals() as stop:
            while True:
                assignment = take(study, lease.worker, target)
                if isinstance(assignment, Nothing):
                    if not assignment.wait:
                        return assignment.reason
                    lease.tell({"state": "waiting"})
                    if stop.wait(0.5):
                        raise KeyboardInterrupt
                    continue
                failures = 0 if _run(study, assignment, data, place, lease, stop, log) else failures + 1
                if failures >= FAILURES_IN_A_ROW:
                    raise UserError(
                        f"{failures} trials failed in a row",
                        [
                            Problem(
                                "last trial", assignment.trial.number, _reason(study, assignment.trial.number)
                            )
                        ],
                    )
    finally:
        lease.release()


def open_data(study: Study) -> TokenData:
    """The study's token data; prepared anew on a machine that does not have it.

    Raises:
        UserError: it is not the data that the study was started with.
    """
    settings = study.settings
    if (Path(settings.data_folder) / "meta.json").is_file():
        data = TokenData.open(settings.data_folder)
    else:
        data = prepare_for(study.space, settings.corpus, settings.tokenizer)
    if data.content_hash != settings.data_hash:
        rule = f"differs from the study's {settings.data_hash}"
        raise UserError("not this study's data", [Problem("data", data.content_hash, rule)])
    return data


def prepare_for(
    space: SearchSpace, corpus: str, tokenizer: str,
    progress: Callable[[int, int, int | None], None] | None = None,
) -> TokenData:  # fmt: skip
    """Tokens enough for one proxy from a Hub data set, or the whole of a local corpus."""
    if (Path(corpus) / "meta.json").is_file():
        return TokenData.open(corpus)
    remote = corpus.startswith(("hf:", "fineweb-edu"))
    return prepare(corpus, tokenizer, max_tokens=space.proxy.tokens if remote else None, progress=progress)


def train_settings(space: SearchSpace, order_seed: int) -> TrainSettings:
    """The proxy of a space as the trainer takes it; the data order depends on the study's seed alone."""
    proxy = space.proxy
    return TrainSettings(
        tokens=proxy.tokens,
        seq_len=proxy.seq_len,
        batch_tokens=proxy.batch_tokens,
        lr=proxy.lr,
        warmup=proxy.warmup,
        weight_decay=proxy.weight_decay,
        eval_tokens=proxy.eval_tokens,
        eval_at=proxy.rungs,
        order_seed=order_seed,
    )


def metrics_of(
    space: SearchSpace, architecture: Architecture, results: list[TrainResult]
) -> dict[str, float]:
    """Every metric the space mentions and every one without a context, by name."""
    measured = {
        name: fmean(getattr(result, name) for result in results)
        for name, metric in ALL_METRICS.items()
        if metric.analytic is None
    }
    names = [name for name, metric in ALL_METRICS.items() if metric.analytic and not metric.takes_context]
    names += [item.name for item in (*space.objectives, *space.constraints) if item.metric.analytic]
    return {**measured, **{name: float(cost(architecture, name)) for name in dict.fromkeys(names)}}


def _run(
    study: Study, assignment: Assignment, data: TokenData, device: torch.device, lease: Lease,
    stop: threading.Event, log: Log,
) -> bool:  # fmt: skip
    """Trains one trial and tells the study. False when it failed."""
    trial, architecture = assignment.trial, assignment.architecture
    folder = study.trial_folder(trial.number)
    (folder / "architecture.yaml").write_text(architecture.to_yaml(), encoding="utf-8")
    settings = train_settings(study.space, study.settings.seed)
    seeds = [
        derive_seed(study.settings.seed, architecture.hash, repeat)
        for repeat in range(study.space.proxy.seeds)
    ]
    trial.set_user_attr(SEEDS, seeds)
    trial.set_user_attr(ENVIRONMENT, describe(device))
    started = last_beat = time.time()

    def on_step(progress: Progress) -> None:
        nonlocal last_beat
        if study.url is not None and time.time() - last_beat > HEARTBEAT_SECONDS:
            last_beat = time.time()
            trial.set_user_attr(HEARTBEAT, last_beat)
        lease.tell({
            "state": "training", "trial": trial.number, "line": architecture.line, "loss": progress.loss,
            "done": progress.step / progress.steps, "tokens_per_s": progress.tokens_per_s,
        })  # fmt: skip

    log(f"trial {trial.number} starts: {architecture.line}")
    try:
        results = []
        for repeat, seed in enumerate(seeds):
            torch.manual_seed(seed)
            model = HybridLM(architecture)
            curve = folder / ("curve.jsonl" if repeat == 0 else f"curve-{repeat}.jsonl")
            results.append(
                train(
                    model,
                    data,
                    settings,
                    seed=seed,
                    device=device,
                    curve=curve,
                    on_step=on_step,
                    should_stop=stop.is_set,
                )  # fmt: skip
            )
    except (KeyboardInterrupt, Interrupted):
        put_back(study, trial.number)
        log(f"trial {trial.number} is put back, to be run again")
        raise KeyboardInterrupt from None
    except Exception as error:
        # one trial's failure must not end the study
        expected = isinstance(error, TrainingFailed)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        (folder / "error.txt").write_text(reason if expected else traceback.format_exc(), encoding="utf-8")
        trial.set_user_attr(REASON, reason)
        trial.set_user_attr(SECONDS, time.time() - started)
        study.inner.tell(trial, state=TrialState.FAIL)
        log(f"trial {trial.number} failed: {reason}")
        return False
    metrics = metrics_of(study.space, architecture, results)
    trial.set_user_attr(METRICS, metrics)
    trial.set_user_attr(SECONDS, time.time() - started)
    values = [metrics[objective.name] for objective in study.space.objectives]
    study.inner.tell(trial, values)
    told = ", ".join(
        f"{objective.name} {objective.metric.format(value)}"
        for objective, value in zip(study.space.objectives, values, strict=True)
    )
    log(f"trial {trial.number} done in {time.time() - started:.0f} s: {told}")
    return True


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Set by SIGINT and SIGTERM: training looks at it each step, so no write to the storage is cut through.
    A second signal interrupts at once."""
    stop = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _reason(study: Study, number: int) -> str:
    return study.record(number).reason
