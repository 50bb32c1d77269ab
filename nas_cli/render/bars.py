"""Progress of training and measuring: a bar in a terminal, occasional lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nas_cli.render.progress import PLAIN_SECONDS
from nas_cli.render.screen import duration, notes, speed

if TYPE_CHECKING:
    from studies.training.loop import Progress


@contextmanager
def training_progress(label: str = "training") -> Iterator[Callable[[Progress], None]]:
    """Yield a callback that shows step, loss, tokens/s and the remaining time on stderr."""
    with _bar(label) as show:

        def update(now: Progress) -> None:
            show(now.step, now.steps, f"step {now.step}/{now.steps}  {step_text(now, '  ')}")

        yield update


def step_text(now: Progress, separator: str = ", ", loss: str = "loss") -> str:
    """Return losses, speed and the remaining time of a training; `loss` names the minimised one."""
    left = (now.steps - now.step) * now.tokens / now.step / max(now.tokens_per_s, 1e-9)
    parts = [f"{loss} {now.loss:.3f}"]
    if now.kl is not None:
        parts.append(f"KL {now.kl:.3f}")
    if now.val_loss is not None:
        parts.append(f"held out {now.val_loss:.3f}")
    return separator.join([*parts, f"{speed(now.tokens_per_s)}", f"{duration(left)} left"])


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback (stage, done, total) that shows the progress of a stage on stderr."""
    with _bar("") as show:
        yield lambda stage, done, total: show(done, total, f"{stage} {done:,}/{total:,}")


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a callback (done, total, text)."""
    if not notes.is_terminal:
        last = time.monotonic()

        def line(done: int, total: int, text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_SECONDS:
                last = time.monotonic()
                notes.print(f"{label}: {text}" if label else text, soft_wrap=True)

        yield line
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Bar(*columns, console=notes, transient=True) as bar:
        task = bar.add_task(label, total=None, text="")

        def update(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, text=text)

        yield update
