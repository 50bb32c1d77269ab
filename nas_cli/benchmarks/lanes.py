"""`nas bench lanes`: how many trainings at a time make a device faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nas_cli.completion import baselines as baseline_names
from nas_cli.help import add_command
from nas_cli.options import DeviceOption, JsonOption, SpaceArgument
from nas_cli.render.counts import lanes as lane_count
from nas_cli.render.screen import console, print_json, starting

if TYPE_CHECKING:
    from studies.benchmarks.lanes import LanesTiming


def add_to(bench: typer.Typer) -> None:
    """Add `lanes` to `bench`."""
    add_command(
        bench,
        "lanes",
        lanes,
        "nas bench lanes sprint",
        "nas bench lanes sprint --baseline dense --baseline lt2-gdn --lanes 1 --lanes 4 --device cuda",
    )


def lanes(
    space: SpaceArgument,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=baseline_names, help="Baseline to train; may be repeated. Default: the first."
        ),
    ] = None,
    number: Annotated[
        list[int] | None,
        typer.Option("--lanes", parser=lane_count, metavar="N", help="May be repeated. Default: 1, 2, 4, 8."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Timed steps of each training.")] = 200,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a baseline in several lanes of one process, on random tokens, and compare speeds and losses.

    Each lane has its own seed; the first lane's loss is compared with what it is alone.
    """
    from search_spaces import load_space
    from surgery.config.problems import Problem, UserError

    chosen = load_space(space)
    names = baseline or chosen.baseline_names[:1]
    for name in names:
        if name not in chosen.baselines:
            rule = f"is not a baseline of the space, which has {', '.join(chosen.baseline_names) or 'none'}"
            raise UserError("can't measure that", [Problem("--baseline", name, rule)])
    from studies.benchmarks.lanes import measure_lanes
    from studies.training.devices import describe, make_ready, pick_device
    from studies.workers.proxy import train_settings

    torch_device = pick_device(device)
    make_ready(torch_device)
    counts = sorted({1, *number} if number else {1, 2, 4, 8})
    settings = train_settings(chosen, 0)
    about = describe(torch_device)
    if not as_json:
        console.print(
            f"{chosen.name}, steps of {settings.batch_tokens:,} tokens, {about['device']}, "
            f"torch {about['torch']}\n"
        )
        console.print(
            _line("baseline", "lanes", "tokens/s", "to one", "of a lane", "loss of the first"), style="bold"
        )
    measured: dict[str, list[LanesTiming]] = {name: [] for name in names}
    for name, timings in measured.items():
        for count in counts:
            with starting(f"{name}: {count} lanes"):
                timings.append(measure_lanes(chosen.baselines[name], settings, count, steps, torch_device))
            if not as_json:  # at once: the next number of lanes may take minutes
                console.print(_row(name, timings, torch_device.type == "cuda"))
    if as_json:
        rows = {name: [item.to_dict() for item in timings] for name, timings in measured.items()}
        print_json({"machine": about, "batch_tokens": settings.batch_tokens, "steps": steps, "lanes": rows})


def _row(name: str, timings: list[LanesTiming], on_gpu: bool) -> str:
    """Return the newest timing of a baseline beside the first, of one lane."""
    alone, item = timings[0], timings[-1]
    gap = item.losses[0] - alone.losses[0]
    return _line(
        name if item is alone else "",
        str(item.lanes),
        f"{item.tokens_per_s / 1000:,.0f}k",
        f"{item.tokens_per_s / alone.tokens_per_s:.2f}",
        f"{item.peak_memory / 2**20:,.0f} MiB" if on_gpu else "",  # a CPU's is that of the process
        f"{item.losses[0]:.6f}" if item is alone else ("the same" if gap == 0 else f"{gap:+.1e}"),
    )


def _line(name: str, *cells: str) -> str:
    widths = (6, 9, 7, 10, 18)
    return f"{name:<18}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
