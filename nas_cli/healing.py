"""Healing on the command line: which options belong together, and what is shown meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from nas_cli.options import given, refuse_without_effect
from nas_cli.render.bars import step_text
from nas_cli.render.screen import notes

if TYPE_CHECKING:
    from studies.healing.watch import Watch
    from studies.training.loop import Progress

HEALING = (
    "heal_loss",
    "heal_optimizer",
    "lr",
    "lr_new",
    "hidden_weight",
    "lora",
    "checkpoint_activations",
)  # options of --heal
TRAINING = ("freeze", "control", "batch_tokens", "eval_every", "seed", "track")
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


def loss_lines() -> Watch:
    """Return callbacks that print every held-out loss and remark on stderr."""
    from studies.healing.watch import Watch

    def show_loss(what: str, loss: float, bpb: float) -> None:
        losses = f"loss {loss:.4f} nats/token, {bpb:.4f} bits/byte on held-out text"
        notes.print(Text.assemble((f"{what} model: ", "bold"), losses), soft_wrap=True)

    def show_note(note: str) -> None:
        notes.print(Text.assemble(("note: ", "yellow"), note), soft_wrap=True)

    return Watch(on_loss=show_loss, on_note=show_note)


def show_progress(watch: Watch, progress: Callable[[str, int, int], None]) -> None:
    """Show measurements and trainings by a callback (stage, done, total)."""

    def show_step(stage: str, now: Progress) -> None:
        text = step_text(now, loss="distance" if stage == "aligned" else "loss")
        progress(f"{STAGES[stage]}, {text}, step", now.step, now.steps)

    watch.on_stage = progress
    watch.on_step = show_step
