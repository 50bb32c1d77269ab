"""`nas bench mixers`: speed of mixers on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nas_cli.help import add_command
from nas_cli.options import MOST, DeviceOption, JsonOption, RoundsOption
from nas_cli.render.counts import tokens
from nas_cli.render.screen import console, print_json, starting

if TYPE_CHECKING:
    from studies.benchmarks.mixers import Timing
    from surgery.architecture import Architecture


def add_to(bench: typer.Typer) -> None:
    """Add `mixers` to `bench`."""
    add_command(
        bench,
        "mixers",
        mixers,
        "nas bench mixers",
        "nas bench mixers --mixers FGW --lengths 512,2048,8192 --device cuda",
    )


def _lengths(text: str) -> tuple[int, ...]:
    lengths = []
    for item in text.split(","):
        try:
            lengths.append(tokens(item))
        except typer.BadParameter as error:
            raise typer.BadParameter(f"'{item}' {error.message}", param_hint="'--lengths'") from None
    return tuple(lengths)


def mixers(
    layouts: Annotated[
        str, typer.Option("--mixers", metavar="LETTERS", help="Mixers, such as FGDWSK.")
    ] = "FGDWSK",
    lengths: Annotated[
        str, typer.Option(metavar="TOKENS,...", help="Sequence lengths, such as 512,2048,8192.")
    ] = "512,1024,2048",
    dim: Annotated[int, typer.Option(min=8, max=MOST, help="Width of the model.")] = 256,
    heads: Annotated[int, typer.Option(min=1, max=MOST, help="Attention heads.")] = 4,
    layers: Annotated[
        int, typer.Option(min=0, max=MOST, help="Layers of a whole model; 0: a single mixer.")
    ] = 0,
    batch_tokens: Annotated[
        int,
        typer.Option(
            parser=tokens, metavar="TOKENS", help="Tokens per training step, at least one sequence."
        ),
    ] = 2048,
    rounds: RoundsOption = 3,
    decode: Annotated[bool, typer.Option(help="Also time decoding.")] = True,
    window: Annotated[int, typer.Option(min=1, max=MOST, help="Window of W, in tokens.")] = 256,
    top_k: Annotated[int, typer.Option(min=2, max=MOST, help="Tokens that S attends to.")] = 64,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare mixers: training steps and decoding at increasing sequence lengths.

    `ratio`: F's training time over this mixer's. `of peak`: FLOPs/s of its matmuls over those of a large one;
    low for mixers that are memory-bound or process one token at a time.
    """
    from studies.benchmarks.mixers import Plan, measure
    from studies.training.devices import describe, pick_device

    architecture = _architecture(layouts, dim, heads, max(1, layers), window, top_k)
    if not layers:
        _check_mixes(layouts)
    torch_device = pick_device(device)
    plan = Plan(
        architecture, tuple(dict.fromkeys(layouts)), _lengths(lengths),
        batch_tokens, layers, rounds, decode,
    )  # fmt: skip
    with starting("measuring") as say:
        timings = list(measure(plan, torch_device, lambda letter, length: say(f"{letter} at {length:,}")))
    if as_json:
        print_json({"machine": describe(torch_device), "timings": [item.to_dict() for item in timings]})
        return
    what = f"{layers}-layer models" if layers else "single mixers"
    about = describe(torch_device)
    console.print(f"{what}, dim {dim}, {heads} heads, {about['device']}, torch {about['torch']}\n")
    console.print(_table(timings, plan.mixers))


def _architecture(layouts: str, dim: int, heads: int, layers: int, window: int, top_k: int) -> Architecture:
    """Return a checked architecture with these mixers, as if read from a file."""
    from surgery.architecture import Architecture

    return Architecture.from_dict({
        "backbone": {
            "vocab_size": 8192, "dim": dim, "num_layers": max(layers, len(layouts)), "num_heads": heads,
            "num_kv_heads": heads, "ffn_dim": 4 * dim,
        },
        "layout": layouts,
        "mixers": {"W": {"window": window}, "S": {"top_k": top_k}},
    })  # fmt: skip


def _check_mixes(letters: str) -> None:
    """Check that every layer has a mixer, which can be timed alone.

    Raises:
        UserError: lists the letters without one.
    """
    from surgery.config.problems import Problems
    from surgery.mixers import MIXERS

    problems = Problems()
    for letter in dict.fromkeys(letters):
        if not MIXERS[letter].mixes:
            problems.add(
                "--mixers", letter, "has no mixer to time alone", "give --layers to time whole models"
            )
    problems.raise_if_any("can't time the mixers")


def _table(timings: list[Timing], mixers: tuple[str, ...]) -> Table:
    from surgery.config.quantities import format_bytes

    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    names = (
        "length", "mixer", "fwd ms", "train ms", "±", "tokens/s", "ratio", "of peak", "decode ms", "±",
        "cache",
    )  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name == "mixer" else "right", no_wrap=True)
    full = {item.length: item.train_ms for item in timings if item.mixer == "F"}
    for item in timings:
        ratio = f"{full[item.length] / item.train_ms:.2f}×" if item.length in full else ""
        decode = "" if item.decode_ms is None else f"{item.decode_ms:.2f}"
        spread = "" if item.decode_spread is None else f"{item.decode_spread / 2:.0%}"
        table.add_row(
            f"{item.length:,}", item.mixer, f"{item.forward_ms:.1f}", f"{item.train_ms:.1f}",
            f"{item.train_spread / 2:.0%}", f"{item.tokens_per_s:,.0f}", ratio,
            f"{item.of_peak:.0%}", decode, spread, format_bytes(item.cache_bytes),
            end_section=item.mixer == mixers[-1],
        )  # fmt: skip
    return table
