"""`nas bench ops`: speed of projection operators on this machine, compared with dense projections."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nas_cli.choices import KlForm
from nas_cli.help import add_command
from nas_cli.options import MOST, DeviceOption, JsonOption, RoundsOption
from nas_cli.render.counts import tokens as count_tokens
from nas_cli.render.screen import console, print_json, print_warnings, starting

if TYPE_CHECKING:
    from studies.benchmarks.ops import Measured, Siblings

_SHAPE = re.compile(r"(\d+):(\d+)x(\d+)")
TOKENS = {"cuda": 32768, "cpu": 2048}  # defaults by device


def add_to(bench: typer.Typer) -> None:
    """Add `ops` to `bench`."""
    add_command(bench, "ops", ops, "nas bench ops", "nas bench ops --shapes 512:3x512 --rank 64 --kl mean")


def ops(
    shapes: Annotated[
        str | None,
        typer.Option(metavar="IN:NxOUT,...", help="Siblings, such as 512:3x512,512:2x2048. Default: eight."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            parser=count_tokens, metavar="TOKENS", help="Tokens. Default: 32,768 on CUDA, else 2,048."
        ),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, max=MOST, help="Rank of HDPL and low_rank.")] = 128,
    blocks: Annotated[int, typer.Option(min=1, max=MOST, help="Blocks of HDPL.")] = 8,
    kl: Annotated[KlForm, typer.Option(help="KL form of HDPL.")] = "reference",
    rounds: RoundsOption = 5,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Also try torch.compile. Default: only on CUDA."),
    ] = None,
    graphs: Annotated[
        bool, typer.Option("--graphs/--no-graphs", help="Run as CUDA graphs, without launch overhead.")
    ] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare projection operators with dense: siblings that share an input, forward and with backward."""
    from studies.benchmarks.ops import TABLE, Plan, broken_rules, measure
    from studies.training.devices import describe, pick_device

    torch_device = pick_device(device)
    plan = Plan(
        _shapes(shapes) if shapes is not None else TABLE,
        tokens or TOKENS.get(torch_device.type, TOKENS["cpu"]),
        {"rank": rank, "blocks": blocks, "kl": kl},
        rounds,
        compiled if compiled is not None else torch_device.type == "cuda",
        graphs,
    )
    print_warnings(f"not measured: {rule}" for rule in broken_rules(plan))
    with starting("measuring") as say:
        timings = list(measure(plan, torch_device, lambda siblings: say(f"measuring {siblings}")))
    about = describe(torch_device)
    if as_json:
        print_json({
            "machine": about, "tokens": plan.tokens, "options": plan.options,
            "measured": [item.to_dict() for item in timings],
        })  # fmt: skip
        return
    console.print(
        f"{plan.tokens:,} tokens, {blocks} blocks, rank {rank}, KL {kl}, {about['device']}, "
        f"torch {about['torch']}\n"
    )
    console.print(_table(timings))


def _shapes(text: str) -> tuple[Siblings, ...]:
    from studies.benchmarks.ops import Siblings

    shapes = []
    for item in text.split(","):
        match = _SHAPE.fullmatch(item.strip())
        if match is None or "0" in match.groups():
            raise typer.BadParameter(f"'{item}' must have the form 512:3x512", param_hint="'--shapes'")
        shapes.append(Siblings(*map(int, match.groups())))
    return tuple(shapes)


def _table(timings: list[Measured]) -> Table:
    """Return a table with one row per operator and siblings, next to the dense time."""
    memory_known = any(item.memory_ratio is not None for item in timings)
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = (
        "siblings", "operator", "dense ms", "±", "ms", "±", "form", "forward", "ratio", "limit", "reached",
        *(["memory"] if memory_known else []),
    )  # fmt: skip
    for name in names:
        words = name in ("siblings", "operator", "form")
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    dense = {item.siblings: item for item in timings if item.operator == "dense"}
    for item in timings:
        base = dense[item.siblings]
        if item is base:
            continue
        memory = [f"{item.memory_ratio:.2f}×"] if item.memory_ratio is not None else []
        table.add_row(
            item.siblings, item.operator, f"{base.step_ms:.2f}", f"{base.step_spread / 2:.0%}",
            f"{item.step_ms:.2f}", f"{item.step_spread / 2:.0%}", item.form, f"{item.forward_ratio:.2f}×",
            f"{item.ratio:.2f}×", f"{item.limit:.2f}×", f"{item.of_limit:.0%}", *memory,
        )  # fmt: skip
    return table
