"""`nas train`: one architecture from random weights, for longer than a proxy, into a model folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from nas_cli.commands.data import CORPUS_HELP
from nas_cli.options import (
    DEFAULT_CPU_PRECISION,
    MOST_SEED,
    CompileOption,
    CpuPrecisionOption,
    DeviceOption,
    JsonOption,
    OverwriteOption,
    ThreadsOption,
)
from nas_cli.render.counts import SeqLenOption, learning_rate, number, tokens
from nas_cli.render.screen import console, duration, errors, print_json, print_warnings

if TYPE_CHECKING:
    from studies.data import TokenData
    from studies.training.settings import TrainSettings
    from surgery.architecture import Architecture


def add_to(app: typer.Typer) -> None:
    app.command("train")(train)


def train(
    architecture: Annotated[
        Path, typer.Argument(metavar="ARCH", help="An architecture file, such as nas pick writes.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model.")],
    data: Annotated[
        str, typer.Option(help=f"A folder made by nas data prepare, or {CORPUS_HELP}")
    ] = "builtin",
    tokenizer: Annotated[
        str | None,
        typer.Option(help="bpe:SIZE or a Hugging Face tokenizer; a BPE of the model's vocabulary."),
    ] = None,
    budget: Annotated[
        int, typer.Option("--tokens", parser=tokens, metavar="TOKENS", help="Tokens to train on.")
    ] = 20_000_000,
    seq_len: SeqLenOption = 512,
    batch_tokens: Annotated[
        int, typer.Option(parser=tokens, metavar="TOKENS", help="Tokens of an optimizer step.")
    ] = 32_768,
    lr: Annotated[
        float, typer.Option(parser=learning_rate, metavar="RATE", help="Peak learning rate of AdamW.")
    ] = 1e-3,
    lr_rule: Annotated[
        str,
        typer.Option(help="Who gets it: roles (embeddings, norms, gates six times it), width or uniform."),
    ] = "roles",
    warmup: Annotated[
        float, typer.Option(parser=number(0, 0.9), metavar="SHARE", help="Share of the steps it rises in.")
    ] = 0.05,
    weight_decay: Annotated[
        float, typer.Option(parser=number(0, 100), metavar="DECAY", help="AdamW's, on matrices only.")
    ] = 0.1,
    eval_tokens: Annotated[
        int, typer.Option(parser=tokens, metavar="TOKENS", help="Held-out tokens the loss is measured on.")
    ] = 65_536,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seeds weights, noise and data order.")] = 0,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    compile: CompileOption = "auto",
    cpu_precision: CpuPrecisionOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train an architecture from scratch and write a Hugging Face folder with its loss curve.

    Ctrl-C stops and leaves nothing behind.
    """
    from surgery.architecture import Architecture

    chosen = Architecture.from_yaml(architecture)
    print_warnings(chosen.warnings())
    from dataclasses import asdict

    import torch

    from studies.training.compilation import check_compile
    from studies.training.devices import check_memory, pick_device
    from studies.training.errors import TrainingFailed
    from studies.training.pretrain import check_budget, evaluation_points, pretrain
    from studies.training.settings import TrainSettings
    from studies.training.threads import choose_threads
    from surgery.hf.staging import check_target

    place = pick_device(device)
    check_compile(compile, place)
    check_target(output, overwrite=overwrite)
    check_memory({"architecture": chosen}, place)
    torch.set_num_threads(choose_threads(threads, chosen.backbone))
    settings = TrainSettings(
        tokens=budget, seq_len=seq_len, batch_tokens=batch_tokens, lr=lr, lr_rule=lr_rule,
        warmup=warmup, weight_decay=weight_decay, eval_tokens=eval_tokens,
        eval_at=evaluation_points(budget, eval_tokens), order_seed=seed, compile=compile,
        cpu_precision=cpu_precision or DEFAULT_CPU_PRECISION,
    )  # fmt: skip
    check_budget(settings)
    text = _open_text(data, tokenizer or f"bpe:{chosen.backbone.vocab_size}", budget)
    print_warnings(text.warnings())
    if not as_json:
        _say_start(chosen, text, settings)
    from nas_cli.render.bars import training_progress

    try:
        with training_progress() as progress:
            result = pretrain(
                chosen, text, settings, output, seed=seed, device=place, overwrite=overwrite, on_step=progress
            )
    except TrainingFailed as error:
        errors.print(Text.assemble(("training failed: ", "bold red"), str(error), "; nothing was written"))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print("stopped; nothing was written")
        raise
    if as_json:
        print_json(
            {"output": str(output), "architecture": chosen.line, "hash": chosen.hash, **asdict(result)}
        )
        return
    console.print(
        f"held-out loss [bold green]{result.val_loss:.4f}[/] nats/token, {result.val_bpb:.4f} bits/byte, "
        f"perplexity {math.exp(min(result.val_loss, 700)):.2f}"
    )
    console.print(
        f"{result.tokens:,} tokens ({result.epochs:.2f} epochs) in {duration(result.seconds)}, "
        f"{result.train_tokens_per_s:,.0f} tokens/s"
    )
    console.print(f'wrote {output}; next: [bold]nas generate {output} "Once"[/]', soft_wrap=True)


def _open_text(data: str, tokenizer: str, budget: int) -> TokenData:
    from nas_cli.render.progress import data_progress
    from studies.training.pretrain import open_text

    with data_progress() as progress:
        return open_text(data, tokenizer, budget, progress)


def _say_start(architecture: Architecture, text: TokenData, settings: TrainSettings) -> None:
    from surgery.architecture.costs import cost
    from surgery.config.quantities import format_count

    size = f"  {format_count(cost(architecture, 'params'))} parameters"
    console.print(Text.assemble((architecture.line, "bold"), size), soft_wrap=True)
    console.print(
        f"{settings.steps:,} steps of {settings.batch_tokens:,} tokens on {text.meta['corpus']['spec']} "
        f"({len(text.tokens('train')):,} tokens), sequences of {settings.seq_len}",
        soft_wrap=True,
    )
