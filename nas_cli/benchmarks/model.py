"""`nas bench model`: training steps of whole models, compared with each other and with a bare loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nas_cli import completion
from nas_cli.help import add_command
from nas_cli.options import MOST, CompileOption, DeviceOption, JsonOption, RoundsOption
from nas_cli.render.counts import tokens
from nas_cli.render.screen import console, print_json, starting

if TYPE_CHECKING:
    from studies.benchmarks.model import ModelTiming
    from surgery.architecture import Architecture
    from surgery.config.backbone import Backbone


def add_to(bench: typer.Typer) -> None:
    """Add `model` to `bench`."""
    add_command(
        bench,
        "model",
        model,
        "nas bench model pick.yaml",
        "nas bench model dense hdpl-paper --space hybrid --compile max",
    )


def model(
    architectures: Annotated[
        list[str],
        typer.Argument(
            metavar="ARCH...",
            autocompletion=completion.architectures,
            help="Architecture files, or names of baselines (with --space).",
        ),
    ],
    space: Annotated[
        str | None,
        typer.Option(help="A preset or a YAML file that sets the baselines' backbone and the batch."),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            parser=tokens, metavar="TOKENS", help="Tokens per sequence. Default: the space's, else 512."
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            parser=tokens, metavar="TOKENS", help="Tokens per step. Default: the space's, else 8,192."
        ),
    ] = None,
    rounds: RoundsOption = 5,
    steps: Annotated[int, typer.Option(min=1, max=MOST, help="Training steps per measurement.")] = 5,
    bare: Annotated[bool, typer.Option(help="Also measure a plain PyTorch loop.")] = True,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="CPU threads. Default: all cores.")
    ] = None,
    compile: CompileOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare training steps of whole models: tokens/s, time by phase, memory.

    `ratio`: tokens/s relative to the first model; the bare loop trains a dense model of its sizes. `of peak`:
    FLOPs/s relative to a large matmul. `--compile auto` decides as for a long run.
    """
    from search_spaces import load_space
    from studies.training.compilation import check_compile
    from studies.training.devices import check_memory, describe, pick_device

    chosen = load_space(space) if space is not None else None
    models = {
        name: _read(name, chosen.backbone if chosen is not None else None)
        for name in dict.fromkeys(architectures)
    }
    torch_device = pick_device(device)
    check_compile(compile, torch_device)
    check_memory(models, torch_device)
    from studies.benchmarks.model import ModelPlan, measure_models

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    length = seq_len or (chosen.proxy.seq_len if chosen is not None else 512)
    batch = batch_tokens or (chosen.proxy.batch_tokens if chosen is not None else 8192)
    plan = ModelPlan(
        models, length, max(1, batch // length) * length, rounds, steps, compile,
        next(iter(models.values())).backbone if bare else None,
    )  # fmt: skip
    with starting("measuring") as say:
        timings = measure_models(plan, torch_device, say)
    about = describe(torch_device)
    if as_json:
        print_json({
            "machine": about, "seq_len": plan.seq_len, "batch_tokens": plan.batch_tokens, "compile": compile,
            "compiled": plan.compiles(torch_device), "timings": [item.to_dict() for item in timings],
        })  # fmt: skip
        return
    console.print(
        f"training steps of {plan.batch_tokens:,} tokens in sequences of {length:,}, "
        f"{'compiled' if plan.compiles(torch_device) else 'not compiled'}, {about['device']}, "
        f"{about['threads']} threads, torch {about['torch']}\n"
    )
    console.print(_table(timings))


def _read(name: str, backbone: Backbone | None) -> Architecture:
    """Return the architecture of a file, or a baseline on the space's backbone.

    Raises:
        UserError: `name` is neither, or the baseline does not fit the backbone.
    """
    from search_spaces.baselines import BASELINES, NAMES, build_baseline, misfits
    from surgery.architecture import Architecture
    from surgery.config.problems import Problem, UserError, nearest

    if Path(name).is_file():
        return Architecture.from_yaml(Path(name))
    problem = None
    if name not in NAMES:
        hint = nearest(name, NAMES) or f"baselines: {', '.join(BASELINES)}"
        problem = Problem("ARCH", name, "is neither a file nor a baseline", hint)
    elif backbone is None:
        problem = Problem("ARCH", name, "is a baseline, which needs a backbone", "give --space")
    elif broken := misfits(name, backbone):
        problem = Problem("ARCH", name, "; ".join(broken))
    if problem is not None:
        raise UserError("no such architecture", [problem])
    assert backbone is not None
    return build_baseline(name, backbone)


def _table(timings: list[ModelTiming]) -> Table:
    from surgery.config.quantities import format_bytes, format_count

    memory_known = any(item.bytes is not None for item in timings)
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = (
        "model", "params", "tokens/s", "±", "ratio", "step ms", "fwd/bwd/opt", "of peak", "first step",
        *(["memory"] if memory_known else []),
    )  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=name != "model")
    for item in timings:
        table.add_row(
            item.name if item.name == item.line else f"{item.name} {item.line}", format_count(item.params),
            f"{item.tokens_per_s:,.0f}", f"{item.spread / 2:.0%}",
            f"{item.tokens_per_s / timings[0].tokens_per_s:.2f}×", f"{item.step_ms:.1f}", _shares(item),
            f"{item.of_peak:.0%}", f"{item.first_step_s:.1f} s",
            *([format_bytes(item.bytes)] if item.bytes is not None else []),
        )  # fmt: skip
    return table


def _shares(item: ModelTiming) -> str:
    """Return the shares of forward, backward and optimizer in a step, unless it is replayed as a graph."""
    parts = item.forward_ms, item.backward_ms, item.optimizer_ms
    if item.replay_ms:
        return "graph"
    return "/".join(f"{part / sum(parts):.0%}".removesuffix("%") for part in parts) + " %"
