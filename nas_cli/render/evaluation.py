"""Tables of `nas eval`: losses by length, beside a teacher's, and retrieval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nas_cli.render.screen import console, duration

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from studies.evaluation.evaluation import ModelEvaluation
    from studies.evaluation.perplexity import Perplexity
    from studies.evaluation.retrieval import Retrieval
    from studies.evaluation.tasks import TaskScore

TASKS = {"pass_key": "pass key", "key_value": "key-value"}


def print_evaluation(
    model: str,
    teacher: str | None,
    result: ModelEvaluation,
    scores: tuple[TaskScore, ...],
    seconds: float,
    changes: Mapping[str, Path | None],
) -> None:
    """Print what was measured: one loss as rows, several as a table, retrieval, and the harness's tasks.

    `changes` are the adapter and the steering file that were given, if any.
    """
    first = result.losses[0]
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("model", Text(model))
    for name, path in changes.items():
        if path is not None:
            rows.add_row(name, Text(str(path)))
    if teacher is not None:
        rows.add_row("against", Text(teacher))
    size = "" if first.bytes is None else f", {first.bytes:,} bytes"
    rows.add_row("text", Text(f"{first.text}: {first.tokens:,} tokens{size}"))
    if len(result.losses) == 1:
        for name, value in _rows(first):
            rows.add_row(name, value)
    tokens = sum(item.tokens for item in result.losses)
    speed = "" if result.retrieval or scores else f", {tokens / max(seconds, 1e-9):,.0f} tokens/s"
    rows.add_row("took", f"{duration(seconds)}{speed}")
    console.print(rows)
    if len(result.losses) > 1:
        console.print()
        console.print(_loss_table(result.losses))
    if result.retrieval:
        console.print()
        console.print(_retrieval_table(result.retrieval))
    if scores:
        console.print()
        console.print(_task_table(scores))


def _rows(item: Perplexity) -> list[tuple[str, str]]:
    """Return the rows of a loss that is the only one."""
    rows = [
        ("loss", f"[bold green]{item.loss:.4f}[/] nats/token, in sequences of {item.seq_len} tokens"),
        ("perplexity", f"{item.perplexity:,.2f}"),
        ("bits/byte", f"{item.bits_per_byte:.4f}"),
    ]
    if item.kl is not None and item.teacher_loss is not None:
        change = item.loss - item.teacher_loss
        rows += [
            ("teacher's loss", f"{item.teacher_loss:.4f} nats/token ({change:+.4f})"),
            ("KL", f"{item.kl:.4f} nats/token from the teacher"),
            ("agreement", f"{item.agreement:.1%} of the greedy tokens are the teacher's"),
        ]
    return rows


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    return table


def _loss_table(losses: tuple[Perplexity, ...]) -> Table:
    against = losses[0].kl is not None
    table = _table(
        "length",
        "loss",
        "perplexity",
        "bits/byte",
        *(["teacher's loss", "KL", "agreement"] if against else []),
    )
    for item in losses:
        cells = [
            f"{item.seq_len:,}", f"[bold green]{item.loss:.4f}[/]", f"{item.perplexity:,.2f}",
            f"{item.bits_per_byte:.4f}",
        ]  # fmt: skip
        if against:
            cells += [f"{item.teacher_loss:.4f}", f"{item.kl:.4f}", f"{item.agreement:.1%}"]
        table.add_row(*cells)
    return table


def _retrieval_table(items: tuple[Retrieval, ...]) -> Table:
    against = items[0].teacher_accuracy is not None
    table = _table(
        "retrieval", "length", "prompts", "accuracy", *(["teacher's", "relative"] if against else []),
        "by depth of the facts",
    )  # fmt: skip
    table.columns[-1].no_wrap = False  # on a narrow terminal this column gives way, not the tasks' names
    table.columns[-1].justify = "left"
    for item in items:
        depths = "  ".join(f"{depth} {accuracy:.0%}" for depth, accuracy in item.by_depth.items())
        cells = [
            TASKS[item.task],
            f"{item.length:,}",
            str(item.prompts),
            f"[bold green]{item.accuracy:.0%}[/]",
        ]
        if against:
            relative = "–" if item.relative is None else f"{item.relative:.0%}"
            cells += [f"{item.teacher_accuracy:.0%}", relative]
        table.add_row(*cells, f"[dim]{depths}[/]")
    return table


def _task_table(scores: tuple[TaskScore, ...]) -> Table:
    against = scores[0].teacher_value is not None
    table = _table(
        "task", "metric", "value", "±", "questions", *(["teacher's", "relative"] if against else [])
    )
    for item in scores:
        cells: list[Text | str] = [
            Text(item.task), Text(item.metric), f"[bold green]{item.value:.4f}[/]",
            "–" if item.stderr is None else f"{item.stderr:.4f}",
            "–" if item.samples is None else f"{item.samples:,}",
        ]  # fmt: skip
        if against:
            relative = "–" if item.relative is None else f"{item.relative:.0%}"
            cells += [f"{item.teacher_value:.4f}", relative]
        table.add_row(*cells)
    return table
