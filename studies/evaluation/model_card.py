"""Results of an evaluation in a model card, as the `model-index` that the Hub reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from studies.evaluation.evaluation import ModelEvaluation
from studies.evaluation.tasks import TaskScore
from surgery.config.paths import expand
from surgery.config.problems import Problem, UserError
from surgery.files.atomic import replacing

CARD = "README.md"


def read_card(model: str) -> ModelCard:
    """Return the model card of a local folder.

    Raises:
        UserError: there is none, or its metadata can't be read.
    """
    path = expand(model) / CARD
    try:
        with path.open(encoding="utf-8", newline="") as file:  # line ends as they are
            return ModelCard(file.read(), ignore_metadata_errors=False)
    except Exception as error:  # YAML and the Hub's library raise several kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        problem = Problem("--card", str(path), f"can't be read: {reason}", "give a local model folder")
        raise UserError("the results can't be written into the model card", [problem]) from error


def write_results(
    card: ModelCard, model: str, result: ModelEvaluation, scores: Iterable[TaskScore], teacher: str | None
) -> Path:
    """Write the results into the card's metadata, in place of earlier results of the same name and text.

    Args:
        card: of `read_card`.
        model: the local folder.
        teacher: the model compared with, if any.

    Returns:
        The card's path.
    """
    path = expand(model) / CARD
    name = None if teacher is None else Path(teacher).name
    new = {(item.dataset_name, item.metric_name): item for item in _results(result, scores, name)}
    kept = [item for item in card.data.eval_results or [] if (item.dataset_name, item.metric_name) not in new]
    card.data.model_name = card.data.model_name or path.absolute().parent.name
    card.data.eval_results = [*kept, *new.values()]
    with replacing(path) as temporary:
        card.save(temporary)
    return path


def _results(
    result: ModelEvaluation, scores: Iterable[TaskScore], teacher: str | None
) -> Iterator[EvalResult]:
    for item in result.losses:
        text, at = _public(item.text), f"at {item.seq_len} tokens"
        yield _result(text, "loss", f"loss in nats/token {at}", item.loss)
        if item.bits_per_byte is not None:
            yield _result(text, "bits_per_byte", f"bits/byte {at}", item.bits_per_byte)
        if teacher is not None:
            yield _result(text, "kl", f"KL from {teacher} in nats/token {at}", item.kl)
            yield _result(text, "accuracy", f"greedy tokens of {teacher} {at}", item.agreement)
    for task in result.retrieval:
        name = f"{task.task} retrieval in {task.length} tokens"
        yield _result(_public(result.losses[0].text), "accuracy", name, task.accuracy)
    for score in scores:
        yield _result(score.task, score.metric, score.metric, score.value)


def _result(dataset: str, kind: str, name: str, value: float | None) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type="text",
        dataset_name=dataset,
        metric_type=kind,
        metric_name=name,
        metric_value=value,
    )


def _public(text: str) -> str:
    """Return the name of a text without the folders of its path."""
    head, _, spec = text.rpartition(" of ")
    return f"{head} of {Path(spec).name}" if Path(spec).is_absolute() else text
