"""A worker: takes trials, trains them and stores the results. Any number of workers share one study."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import optuna
import torch

from studies.data import TokenData
from studies.probes import train_probe
from studies.search.assignment import Assignment, Nothing, finish, take
from studies.search.early_stopping import pause, reach
from studies.search.requeue import HEARTBEAT_SECONDS, beat, requeue
from studies.search.search import Search
from studies.stats.extrapolation import extrapolated_losses
from studies.stats.seeds import derive_seed
from studies.storage.addresses import redacted
from studies.storage.attributes import ENVIRONMENT, METRICS, REASON, REPEAT, SECONDS, SEEDS, STEPS
from studies.storage.opening import STORAGE_ERRORS, explain_storage_errors
from studies.study import Study
from studies.study.leases import Lease
from studies.study.names import CHECKPOINT
from studies.study.settings import MILP
from studies.study.trial_names import Names
from studies.study.trial_record import TrialRecord
from studies.training.batches import check_data
from studies.training.devices import DeviceLost, describe, make_ready, pick_device
from studies.training.errors import TrainingFailed
from studies.training.lanes import turn
from studies.training.loop import Interrupted, Progress, Rung, Stopped, train
from studies.training.profiling import mark
from studies.training.settings import TrainSettings
from studies.training.throughput import by_time
from studies.workers.crew import Crew, Watch, most_lanes
from studies.workers.latency import time_blocks
from studies.workers.progress import MEASURING, TRAINING, Stages
from studies.workers.proxy import metrics_of, open_data, settings_of, train_settings
from studies.workers.signals import Stop, stop_on_signals
from surgery.architecture.metrics import METRICS as ALL_METRICS
from surgery.config.problems import Problem, UserError
from surgery.model import HybridLM

if TYPE_CHECKING:
    from studies.workers.designs import Designs

WAIT_SECONDS = 0.5
FAILURES_IN_A_ROW = 5  # if so many architectures fail, the cause is something else
Log = Callable[[str], None]
Take = Callable[[Search, str, int | None, Callable[[], bool] | None], Assignment | Nothing]


def work(
    study: Study, *, target: int | None, device: str = "auto", lanes: int | None = 1, log: Log = print,
    take_next: Take = take,
) -> str:  # fmt: skip
    """Train trials until the study has `target` trained architectures or its space is exhausted.

    SIGINT and SIGTERM requeue the running trials, to be run again from their start.

    Args:
        lanes: trials that are trained at a time; None: as many as pay. Designs of a pretrained model are
            measured one by one.
        take_next: chooses what to train; that of `studies.search.refinement` chooses replicates.

    Returns:
        The reason why there is nothing left to train.

    Raises:
        UserError: device, data, folder or storage are not usable here, this version trains by other rules
            than the study's trials, or every trial fails.
        DeviceLost: this process can no longer use the device; a new one can.
        KeyboardInterrupt: asked to stop.
    """
    study.refuse_changed_rules()
    torch_device = pick_device(device)
    torch.set_num_threads(study.settings.threads)
    data = open_data(study)
    check_data(data, train_settings(study.space, 0), study.space.backbone.vocab_size)
    make_ready(torch_device)
    mark("open")
    most = most_lanes(study.space, torch_device, lanes)
    with explain_storage_errors(study.folder), stop_on_signals() as stop:
        with Lease(study.workers_folder) as lease:
            designs = None
            if study.space.model is not None:
                from studies.workers.designs import Designs  # with it come transformers and SciPy: seconds

                designs = Designs.open(study, data, torch_device, lease.report_status, stop, log)
            time_blocks(study, torch_device, Stages(lease.report_status), stop, log)
            if most == 1:
                worker = _Worker(study, data, torch_device, lease, stop, log, designs)
                return worker.work(target, take_next)
        crew = Crew(torch_device, most, adaptive=lanes is None, stop=stop)

        def lane(watch: Watch) -> str:
            own = Study.open(str(study.folder.resolve()), url=study.url)  # connections are not shared
            with explain_storage_errors(own.folder), Lease(own.workers_folder) as lease:
                worker = _Worker(own, data, torch_device, lease, stop, log, watch=watch)
                return worker.work(target, take_next)

        return crew.work(lane)


class _Worker:
    """A worker's state, shared by the trials that it trains one after the other."""

    def __init__(
        self, study: Study, data: TokenData, device: torch.device, lease: Lease, stop: Stop, log: Log,
        designs: Designs | None = None, watch: Watch = lambda trial, tokens: None,
    ) -> None:  # fmt: skip
        self.search, self.study, self.watch = Search(study), study, watch
        if designs is not None:
            self.search.most_runs = designs.stretches
            if study.settings.sampler == MILP:
                self.search.chooser = designs.chooser(study.space)
        self.data, self.device, self.lease, self.stop = data, device, lease, stop
        self.log = log
        self.settings = settings_of(self.study)
        self.designs = designs  # of a pretrained model, in place of training
        self.failures = 0
        self.last_beat = time.monotonic()

    def work(self, target: int | None, take_next: Take) -> str:
        """Train trials until there is nothing left to train, and return the reason.

        Raises:
            KeyboardInterrupt: asked to stop.
        """
        while not self.stop():
            assignment = take_next(self.search, self.lease.worker, target, self.stop)
            mark("take")
            if isinstance(assignment, Assignment):
                self.run(assignment)
                mark("storage")
            elif not assignment.wait:
                return assignment.reason
            else:
                self.lease.report_status({"state": "waiting"})
                self.stop.wait(WAIT_SECONDS)
        raise KeyboardInterrupt

    def run(self, assignment: Assignment) -> None:
        """Train a trial to its end or to the rung where it pauses, and store the result.

        Raises:
            UserError: too many trials failed in a row.
            DeviceLost: the trial is left running, as by a killed worker.
            KeyboardInterrupt: asked to stop; the trial is requeued.
        """
        number, started = assignment.trial.number, time.time()
        record = self.study.record(number)
        event = f"resuming after rung {record.passed}" if record.passed else "starting"
        self.log(f"trial {number}: {event}, {assignment.architecture.line}")

        def seconds() -> float:
            return record.seconds + time.time() - started

        try:
            (self.study.trial_folder(number) / "architecture.yaml").write_text(
                assignment.architecture.to_yaml(), encoding="utf-8"
            )
            assignment.trial.set_user_attr(ENVIRONMENT, describe(self.device))
            results = self._train(assignment, record) if self.designs is None else self._measure(assignment)
            metrics = metrics_of(self.study.space, assignment.architecture, results)
        except (KeyboardInterrupt, Interrupted):
            requeue(self.study, number)
            self.log(f"trial {number}: interrupted, requeued")
            raise KeyboardInterrupt from None
        except Stopped:
            self._stop(assignment, seconds())
            return
        except (UserError, *STORAGE_ERRORS):  # not the architecture's fault
            with suppress(*STORAGE_ERRORS):  # else it is requeued when this worker is gone
                requeue(self.study, number)
            raise
        except torch.AcceleratorError as error:  # every call after it would fail as well
            raise DeviceLost(f"trial {number}: {self._explain(assignment, error)}") from error
        except Exception as error:  # one trial's failure must not end the study
            reason = self._explain(assignment, error)
            text = f"trial {number} failed: {reason}"
            self._finish(assignment, {REASON: reason, SECONDS: seconds()}, None, text)
            self._count_failure(number, reason)
            return
        self.failures = 0
        objectives = self.study.space.objectives
        values = [metrics[item.name] for item in objectives]
        shown = (f"{item.name} {item.metric.format(metrics[item.name])}" for item in objectives)
        text = f"trial {number} done in {seconds():.0f} s: {', '.join(shown)}"
        self._finish(assignment, {METRICS: metrics, SECONDS: seconds()}, values, text)

    def _measure(self, assignment: Assignment) -> list[dict[str, float]]:
        """Assemble a design of the pretrained model and measure it; a replicate on other held-out text."""
        assert self.designs is not None
        trial = assignment.trial
        line = Names(self.study.space).design(self.study.record(trial.number))
        self._beat(trial)
        self.lease.report_status({"state": MEASURING, "trial": trial.number, "line": line})
        sample = trial.user_attrs.get(REPEAT, 0)
        return [self.designs.measure(assignment.architecture, sample, self.stop)]

    def _train(self, assignment: Assignment, record: TrialRecord) -> list[dict[str, float]]:
        """Train the architecture and return its measured metrics, one dictionary per seed.

        Probes come first, so that their scores are known at the rungs of the first seed.
        """
        trial, architecture = assignment.trial, assignment.architecture
        folder = self.study.trial_folder(trial.number)
        count = self.study.space.proxy.seeds
        used = trial.user_attrs.get(REPEAT, 0) * count  # by the original trial and its earlier replicates
        seeds = [
            derive_seed(self.study.settings.seed, architecture.hash, used + index) for index in range(count)
        ]
        trial.set_user_attr(SEEDS, seeds)
        probes = self.study.space.proxy.probes

        def should_stop() -> bool:
            self._beat(trial)
            return self.stop()

        settings = self._settings(assignment, record, should_stop)
        whole = settings.steps * settings.batch_tokens + sum(probe.tokens for probe in probes.values())

        def on_step(progress: Progress) -> None:
            self.watch(trial.number, progress.tokens)
            self.lease.report_status(
                {
                    "state": TRAINING,
                    "trial": trial.number,
                    "line": architecture.line,
                    "loss": progress.loss,
                    "done": (repeat + (before + progress.tokens) / whole) / len(seeds),
                    "tokens_per_s": progress.tokens_per_s,
                }
            )

        def at_rung(rung: Rung) -> bool:
            measured = {**asdict(rung), **scores}
            known = {name: measured[name] for name in ALL_METRICS if name in measured}
            return reach(self.search, trial, self.lease.worker, rung.losses, rung.tokens, known)

        results = []
        for repeat, seed in enumerate(seeds):
            before = 0
            first = repeat == 0
            # a resumed run keeps its probes' scores
            scores = {name: record.measured[name] for name in probes if first and name in record.measured}
            for name, probe in probes.items():
                if name not in scores:
                    scores[name] = train_probe(architecture, probe, seed, self.device, should_stop, on_step)
                before += probe.tokens
            mark("storage")
            with turn():
                torch.manual_seed(seed)
                model = HybridLM(architecture)
            mark("build")
            result = train(
                model,
                self.data,
                settings,
                seed=seed,
                device=self.device,
                curve=folder / ("curve.jsonl" if first else f"curve-{repeat}.jsonl"),
                on_step=on_step,
                should_stop=should_stop,
                at_rung=at_rung if first else None,
                checkpoint=folder / CHECKPOINT if first else None,
                decided=record.passed,
            )
            ahead = extrapolated_losses(result.losses, self.study.space.proxy.rungs)
            results.append({**asdict(result), **scores, **ahead})
        return results

    def _settings(
        self, assignment: Assignment, record: TrialRecord, should_stop: Callable[[], bool]
    ) -> TrainSettings:
        """Return the trial's training settings; if the budget is time, with as many steps as fit in it.

        The steps are determined once: a resumed or requeued trial keeps them, and a replicate has those of
        its original.
        """
        seconds = self.study.space.proxy.seconds
        if seconds is None:
            return self.settings
        steps = record.steps
        if steps is None and record.repeat_of is not None:
            steps = self.study.record(record.repeat_of).steps
        if steps is None:
            timed = by_time(
                self.settings, seconds, assignment.architecture, self.data, self.device, should_stop
            )
            steps = timed.steps
        assignment.trial.set_user_attr(STEPS, steps)
        return replace(self.settings, tokens=steps * self.settings.batch_tokens)

    def _stop(self, assignment: Assignment, seconds: float) -> None:
        trial = assignment.trial
        trial.set_user_attr(SECONDS, seconds)
        if pause(self.search, trial, self.lease.worker):
            record = self.study.record(trial.number)
            self.log(
                f"trial {trial.number} pauses at rung {len(record.rungs)} after {seconds:.0f} s: "
                f"val_loss {record.rungs[-1]:.4f}"
            )

    def _beat(self, trial: optuna.Trial) -> None:
        if self.study.url is not None and time.monotonic() - self.last_beat > HEARTBEAT_SECONDS:
            self.last_beat = time.monotonic()
            beat(self.study, trial)

    def _explain(self, assignment: Assignment, error: Exception) -> str:
        """Return the reason as text; write it to error.txt, with the traceback of an unexpected error."""
        expected = isinstance(error, TrainingFailed)
        line = str(error).partition("\n")[0]
        reason = line if expected else f"{type(error).__name__}: {line}"
        path = self.study.trial_folder(assignment.trial.number) / "error.txt"
        text = str(error) if expected else traceback.format_exc()
        path.write_text(redacted(text), encoding="utf-8")
        return redacted(reason)

    def _finish(
        self, assignment: Assignment, attributes: dict[str, Any], values: list[float] | None, text: str
    ) -> None:
        trial = assignment.trial
        if finish(self.study, trial, self.lease.worker, attributes, values):
            self.log(text)
        else:
            self.log(f"trial {trial.number}: reassigned to another worker, result discarded")

    def _count_failure(self, number: int, reason: str) -> None:
        self.failures += 1
        if self.failures >= FAILURES_IN_A_ROW:
            problem = Problem("last reason", None, reason, f"see trial {number}'s error.txt")
            raise UserError(f"{self.failures} trials failed in a row", [problem])
