"""`nas train`: train one architecture from scratch, longer than a proxy, and write a model folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from nas_cli import completion
from nas_cli.by_name import refuse_name
from nas_cli.choices import LrRule, Optimizer
from nas_cli.commands.data import CORPUS_HELP
from nas_cli.help import add_command
from nas_cli.imports import load_torch
from nas_cli.opening import check_corpus
from nas_cli.options import (
    CompileOption,
    CpuPrecisionOption,
    DeviceOption,
    ExportOption,
    JsonOption,
    OverwriteOption,
    ThreadsOption,
    TrackOption,
)
from nas_cli.render.bars import training_progress
from nas_cli.render.counts import SeqLenOption, learning_rate, number, tokens
from nas_cli.render.counts import seed as seed_number
from nas_cli.render.progress import data_progress
from nas_cli.render.screen import console, duration, errors, print_json, print_warnings
from nas_cli.tracking import chosen_trackers, print_stores

if TYPE_CHECKING:
    from studies.data import TokenData
    from studies.tracking.choice import Choice
    from studies.training.loop import TrainResult
    from studies.training.request import TrainRequest


def add_to(app: typer.Typer) -> None:
    """Add `train` to `app`."""
    add_command(
        app,
        "train",
        train,
        "nas train pick.yaml -o model --tokens 20M",
        "nas train pick.yaml -o model --data fineweb-edu --tokens 1G --device cuda",
    )


def train(
    architecture: Annotated[
        Path,
        typer.Argument(
            metavar="ARCH",
            autocompletion=completion.architectures,
            help="An architecture file, such as one written by `nas pick`.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the model.")],
    data: Annotated[
        str, typer.Option(help=f"A folder made by `nas data prepare`, or {CORPUS_HELP}")
    ] = "builtin",
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="bpe:SIZE or a Hugging Face tokenizer. Default: a BPE of the model's vocabulary size."
        ),
    ] = None,
    budget: Annotated[
        int, typer.Option("--tokens", parser=tokens, metavar="TOKENS", help="Training tokens.")
    ] = 20_000_000,
    seq_len: SeqLenOption = 512,
    batch_tokens: Annotated[
        int, typer.Option(parser=tokens, metavar="TOKENS", help="Tokens per optimizer step.")
    ] = 32_768,
    optimizer: Annotated[
        Optimizer,
        typer.Option(help="muon: Muon for the matrices of layers, AdamW for all else, with the same rates."),
    ] = "adamw",
    lr: Annotated[
        float, typer.Option(parser=learning_rate, metavar="RATE", help="Peak learning rate.")
    ] = 1e-3,
    lr_rule: Annotated[
        LrRule,
        typer.Option(
            help="Rates of parameters. roles: 6 times --lr for embeddings, norms and gates; width: by their "
            "input's width; uniform: the same for all."
        ),
    ] = "roles",
    warmup: Annotated[
        float,
        typer.Option(parser=number(0, 0.9), metavar="SHARE", help="Warm-up as a fraction of the steps."),
    ] = 0.05,
    weight_decay: Annotated[
        float,
        typer.Option(parser=number(0, 100), metavar="DECAY", help="Weight decay, on matrices only."),
    ] = 0.1,
    eval_tokens: Annotated[
        int, typer.Option(parser=tokens, metavar="TOKENS", help="Held-out tokens for the validation loss.")
    ] = 65_536,
    seed: Annotated[int, typer.Option(parser=seed_number, help="Seed for weights, noise, data order.")] = 0,
    export: ExportOption = "auto",
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    compile: CompileOption = "auto",
    cpu_precision: CpuPrecisionOption = None,
    threads: ThreadsOption = None,
    track: TrackOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train an architecture from scratch and write a Hugging Face model folder with its loss curve.

    Ctrl-C stops without leaving anything behind.
    """
    from surgery.architecture import Architecture
    from surgery.hf.staging import check_target

    trackers = chosen_trackers(track)
    refuse_name(str(architecture), "architecture")
    chosen = Architecture.from_yaml(architecture)
    print_warnings(chosen.warnings())
    check_corpus(data)
    check_target(output, overwrite=overwrite)
    load_torch()
    from studies.training.request import TrainRequest

    request = TrainRequest(
        chosen, output, data=data, tokenizer=tokenizer, tokens=budget, seq_len=seq_len,
        batch_tokens=batch_tokens, optimizer=optimizer, lr=lr, lr_rule=lr_rule, warmup=warmup,
        weight_decay=weight_decay,
        eval_tokens=eval_tokens, seed=seed, overwrite=overwrite, device=device, compile=compile,
        cpu_precision=cpu_precision, threads=threads, export=export,
    )  # fmt: skip
    request.check()
    with data_progress() as on_data:
        text = request.open_text(on_data)
    print_warnings(text.warnings())
    if not as_json:
        _print_start(request, text)
    result = _run(request, text, trackers)
    if as_json:
        print_json(
            {"output": str(output), "architecture": chosen.line, "hash": chosen.hash, **asdict(result)}
        )
        return
    _print_end(result, output)
    if trackers:
        from studies.tracking.training import stores

        print_stores(trackers, stores(output))


def _run(request: TrainRequest, text: TokenData, trackers: Sequence[Choice]) -> TrainResult:
    """Train under a progress bar, and in trackers.

    Raises:
        typer.Exit: the training failed, which is printed.
    """
    from studies.tracking.training import stores, track_training, tracked
    from studies.training.errors import TrainingFailed

    def warn(text: str) -> None:
        print_warnings([text])

    try:
        with training_progress() as on_step, tracked(trackers, stores(request.output), warn) as tracker:
            return track_training(tracker, request, lambda callback: request.run(text, callback), on_step)
    except TrainingFailed as error:
        errors.print(Text.assemble(("training failed: ", "bold red"), str(error), "; nothing was written"))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print("Interrupted. Nothing was written.")
        raise


def _print_start(request: TrainRequest, text: TokenData) -> None:
    from surgery.architecture.costs import cost
    from surgery.config.quantities import format_count

    architecture, settings = request.architecture, request.settings
    size = f"  {format_count(cost(architecture, 'params'))} parameters"
    console.print(Text.assemble((architecture.line, "bold"), size), soft_wrap=True)
    console.print(
        f"{settings.steps:,} steps of {settings.batch_tokens:,} tokens on {text.meta['corpus']['spec']} "
        f"({len(text.tokens('train')):,} tokens), sequences of {settings.seq_len}",
        soft_wrap=True,
    )


def _print_end(result: TrainResult, output: Path) -> None:
    console.print(
        f"held-out loss [bold green]{result.val_loss:.4f}[/] nats/token, {result.val_bpb:.4f} bits/byte, "
        f"perplexity {math.exp(min(result.val_loss, 700)):.2f}"
    )
    console.print(
        f"{result.tokens:,} tokens ({result.epochs:.2f} epochs) in {duration(result.seconds)}, "
        f"{result.train_tokens_per_s:,.0f} tokens/s"
    )
    console.print(f'wrote {output}; next: [bold]nas generate {output} "Once"[/]', soft_wrap=True)
