"""Tasks of lm-evaluation-harness (the extra `lm-eval`) on any model folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from studies.evaluation.model_folder import Checkpoint
from surgery.config.problems import Problem, UserError

BATCH = {"cpu": 8, "cuda": 64}  # requests that are computed together
BOOTSTRAPS = 1000  # resamples for standard errors that have no closed form


@dataclass(frozen=True)
class TaskScore:
    """One metric of a task or of a group of tasks.

    Attributes:
        stderr: standard error; None if the harness gives none.
        samples: number of questions; None for groups.
        few_shot: solved examples in every prompt; None for groups.
        teacher_value: the teacher's; None, as the next, without a teacher.
        relative: value as a share of the teacher's; None for metrics of which less is better.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    samples: int | None
    few_shot: int | None
    teacher_value: float | None = None
    relative: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def check_tasks(tasks: Sequence[str]) -> None:
    """Check that the tasks exist and that their data can be read.

    Raises:
        UserError: the harness is not installed, or it can't load a task.
    """
    if find_spec("lm_eval") is None:
        hint = "pip install 'nas-cli[lm-eval]'"
        problem = Problem("--tasks", ",".join(tasks), "need lm-evaluation-harness, not installed", hint)
        raise UserError("tasks can't be run", [problem])
    _load(tasks)


def run_tasks(
    checkpoint: Checkpoint,
    tasks: Sequence[str],
    *,
    teacher: Checkpoint | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[TaskScore, ...]:
    """Run tasks on a model, and on its teacher if there is one.

    Args:
        tasks: names that the harness knows, or paths of its YAML files.
        limit: most questions per task; None for all.
        seed: of the choice of examples.

    Raises:
        UserError: the harness can't load a task.
    """
    ours = _results(checkpoint, tasks, limit, seed)
    theirs = None if teacher is None else _results(teacher, tasks, limit, seed)
    scores = []
    for task, metrics in ours["results"].items():
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            reference = None if theirs is None else float(theirs["results"][task][key])
            better = ours["higher_is_better"].get(task, {}).get(metric)
            stderr = metrics.get(f"{metric}_stderr,{kind}")
            scores.append(
                TaskScore(
                    task=task,
                    metric=metric if kind == "none" else f"{metric} ({kind})",
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, int | float) else None,
                    samples=ours["n-samples"].get(task, {}).get("effective"),
                    few_shot=ours["n-shot"].get(task),
                    teacher_value=reference,
                    relative=float(value) / reference if reference and better else None,
                )
            )
    return tuple(scores)


def _results(checkpoint: Checkpoint, tasks: Sequence[str], limit: int | None, seed: int) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    kind = checkpoint.device.type
    model = HFLM(
        pretrained=checkpoint.model,
        tokenizer=checkpoint.tokenizer,
        backend="causal",
        batch_size=BATCH.get(kind, BATCH["cpu"]),
        max_length=min(checkpoint.longest, checkpoint.tokenizer.model_max_length),
    )
    manager, loaded = _load(tasks)
    results: dict[str, Any] = simple_evaluate(
        model,
        tasks=loaded,
        task_manager=manager,
        limit=limit,
        bootstrap_iters=BOOTSTRAPS,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return results


@cache
def _manager(files_only: bool) -> Any:
    """Return the harness's index of tasks; reading all of its own takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=not files_only)


def _load(tasks: Sequence[str]) -> tuple[Any, list[Any]]:
    """Return the harness's task manager, and the loaded tasks and groups.

    Raises:
        UserError: lists every task that can't be loaded.
    """
    manager = _manager(all(name.endswith((".yaml", ".yml")) for name in tasks))
    loaded: list[Any] = []
    problems = []
    for name in tasks:
        try:
            known = manager.load([name])
        except Exception as error:  # the harness, YAML and data sets raise many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            hint = "the harness lists its tasks with `lm-eval ls tasks`"
            problems.append(Problem("--tasks", name, f"can't be loaded: {reason}", hint))
            continue
        groups = known["groups"]
        inner = {child for children in known["group_map"].values() for child in children}
        loaded += [item for title, item in {**groups, **known["tasks"]}.items() if title not in inner]
    if problems:
        raise UserError("tasks can't be run", problems)
    return manager, loaded
