"""Tables of `nas latents`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nas_cli.render.screen import console, duration

if TYPE_CHECKING:
    from pathlib import Path

    from studies.latents.contrast import Contrast
    from studies.latents.reading import Reading
    from studies.latents.training import Trained
    from surgery.latents.adapter import Adapter


def print_reading(model: str, reading: Reading) -> None:
    """Print a table of all projections."""
    title = f"{model} on {reading.text}: {reading.tokens:,} tokens, sequences of {reading.seq_len:,}"
    console.print(Text(title), soft_wrap=True)
    table = _table("rank", "dead", "effective rank", "KL", "mean", "sd")
    for item in reading.statistics:
        dead = len(item.dead(reading.threshold))
        table.add_row(
            str(item.latent.layer), item.latent.projection, str(item.rank),
            Text(str(dead), style="yellow" if dead else "dim"), f"{item.effective_rank:.1f}",
            f"{float(item.kl.sum()):.2f}", f"{_root_mean_square(item.mean.tolist()):.2f}",
            f"{_root_mean_square(item.sd.tolist()):.2f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"[dim]dead: units whose variance is at most {reading.threshold:g}. KL from the prior in nats/token, "
        "summed over units; mean and sd: root mean squares over units.[/]",
        soft_wrap=True,
    )


def print_contrast(model: str, contrast: Contrast, adapter: Adapter, output: Path) -> None:
    """Print how far the texts' means are apart, and what was written."""
    for word, reading in (("having", contrast.having), ("lacking", contrast.lacking)):
        console.print(Text(f"{word}: {reading.text}, {reading.tokens:,} tokens"), soft_wrap=True)
    table = _table("rank", "distance")
    for item, distance in zip(contrast.having.statistics, contrast.distances, strict=True):
        written = item.latent in adapter.offsets
        table.add_row(
            str(item.latent.layer), item.latent.projection, str(item.rank), f"{distance:.2f}",
            style="" if written else "dim",
        )  # fmt: skip
    console.print(table)
    console.print(
        "[dim]distance: of the means, in standard deviations, root mean square over units.[/]", soft_wrap=True
    )
    _print_written(model, adapter.parameters, output)


def print_trained(model: str, trained: Trained, output: Path) -> None:
    """Print the losses before and after, and what was written."""
    before, after, result = trained.before.val_loss, trained.after.val_loss, trained.result
    console.print(
        f"held-out loss [bold green]{after:.4f}[/] nats/token, {before:.4f} without the adapter "
        f"({after - before:+.4f})"
    )
    console.print(
        f"{result.tokens:,} tokens in {duration(result.seconds)}, {result.train_tokens_per_s:,.0f} tokens/s"
    )
    if not trained.step:
        console.print("[yellow]No step was better than no adapter: all offsets are zero.[/]")
    _print_written(model, trained.parameters, output)


def _print_written(model: str, parameters: int, output: Path) -> None:
    following = f'nas generate {model} "Once" --adapter {output}'
    console.print(
        Text.assemble(f"wrote {output}, {parameters:,} offsets; next: ", (following, "bold")), soft_wrap=True
    )


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", justify="right")
    table.add_column("projection", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _root_mean_square(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))
