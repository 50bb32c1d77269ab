"""Healing on the command line: which options belong together, and what is shown meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from nas_cli.options import given, refuse_without_effect
from nas_cli.render.screen import errors

if TYPE_CHECKING:
    import torch

    from studies.healing.healer import Healer
    from studies.healing.settings import HealSettings
    from studies.training.loop import Progress
    from surgery.apply.plan import Plan
    from surgery.apply.source import SourceModel

HEALING = ("heal_loss", "lr", "lr_new")  # options of --heal
TRAINING = ("freeze", "control", "batch_tokens", "eval_every", "seed")  # options of --heal and --align
STAGES = {"aligned": "aligning", "healed": "healing", "control": "training the control"}


def refuse_healing_options(
    context: typer.Context, heal: int | None, align: int | None, data: str | None
) -> None:
    """Reject options of --heal and --align without them, and --seq-len without a text.

    Raises:
        UserError: such an option was given.
    """
    if heal is None:
        ignored = HEALING if align is not None else (*HEALING, *TRAINING)
        refuse_without_effect(given(context, *ignored), "without --heal", "add --heal TOKENS")
    if heal is None and align is None and data is None:
        refuse_without_effect(given(context, "seq_len"), "without --heal or --data", "add one of them")


def make_healer(
    source: SourceModel,
    drawn: Plan,
    data: str,
    settings: HealSettings,
    *,
    calibration: list[str] | None,
    out: Path | None,
    control: bool,
    device: torch.device,
) -> Healer:
    """Open the text and return a healer that prints every held-out loss on stderr.

    Raises:
        UserError: the text can't be used with this model.
    """
    from nas_cli.render.progress import data_progress
    from studies.healing.healer import Healer
    from studies.healing.watch import Watch
    from studies.training.pretrain import open_text

    wanted = (settings.tokens + settings.align_tokens) or settings.eval_tokens
    with data_progress() as progress:
        text = open_text(data, str(source.folder), wanted, progress)

    def show_loss(what: str, loss: float, bpb: float) -> None:
        losses = f"loss {loss:.4f} nats/token, {bpb:.4f} bits/byte on held-out text of {data}"
        errors.print(Text.assemble((f"{what} model: ", "bold"), losses), soft_wrap=True)

    def show_note(note: str) -> None:
        errors.print(Text.assemble(("note: ", "yellow"), note), soft_wrap=True)

    watch = Watch(on_loss=show_loss, on_note=show_note)
    return Healer(
        source, drawn, text, settings, device=device, out=out, calibration=calibration, control=control,
        watch=watch,
    )  # fmt: skip


def show_progress(healer: Healer, progress: Callable[[str, int, int], None]) -> None:
    """Show the healer's measurements and trainings by a callback (stage, done, total)."""
    from nas_cli.render.bars import step_text

    def show_step(stage: str, now: Progress) -> None:
        progress(f"{STAGES[stage]}, {step_text(now)}, step", now.step, now.steps)

    healer.watch.on_stage = progress
    healer.watch.on_step = show_step
