"""`nas latents`: read the latents of HDPL projections, contrast texts by them, train adapters of offsets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_cli.commands.data import CORPUS_HELP
from nas_cli.help import add_command
from nas_cli.imports import load_torch
from nas_cli.opening import check_corpus, check_model
from nas_cli.options import DeviceOption, JsonOption
from nas_cli.render.counts import learning_rate, number, tokens
from nas_cli.render.counts import seed as seed_number
from nas_cli.render.screen import errors, print_json, print_warnings, starting

if TYPE_CHECKING:
    from studies.data import TokenData
    from studies.evaluation.model_folder import Checkpoint
    from studies.latents.reading import Reading
    from studies.latents.training import AdapterRequest, Trained

TEXT_HELP = f"Text: a plain file (used whole) or a corpus (its held-out part): {CORPUS_HELP}"

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder or a Hub id of a model with HDPL projections.")
]
TokensOption = Annotated[
    int | None,
    typer.Option(
        "--tokens", parser=tokens, metavar="TOKENS", help="Most tokens. Default for held-out text: 65,536."
    ),
]
LengthOption = Annotated[
    int | None,
    typer.Option(
        "--seq-len", parser=tokens, metavar="TOKENS",
        help="Tokens per sequence. Default: as in `nas train`, else 512.",
    ),
]  # fmt: skip
AdapterFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the adapter.")
]


def add_to(app: typer.Typer) -> None:
    """Add the `latents` commands to `app`."""
    group = typer.Typer(no_args_is_help=True)
    add_command(
        group, "show", show, "nas latents show model", "nas latents show model --data book.txt --json"
    )
    add_command(
        group, "contrast", contrast,
        "nas latents contrast model --having questions.txt --lacking answers.txt -o asking --times 2",
        "nas latents contrast model --having code.txt --lacking prose.txt -o prose --times -1 --layers 1-2",
    )  # fmt: skip
    add_command(
        group, "train", train,
        "nas latents train model -o books --data books.jsonl.gz --tokens 500k",
        "nas latents train model -o books --data books.jsonl.gz --lr 3e-2 --json",
    )  # fmt: skip
    app.add_typer(group, name="latents", help="Latents of HDPL projections: show, contrast, train (offsets).")


def show(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help=TEXT_HELP)] = "builtin",
    max_tokens: TokensOption = None,
    seq_len: LengthOption = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--dead-variance", parser=number(0, 1e6), metavar="NUMBER",
            help="Units whose mean varies over the text by at most this are dead.",
        ),
    ] = 0.01,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Read the latents of every HDPL projection over a text: dead units, effective rank, KL, mean, sd.

    The latents are the means mu that evaluation decodes. See `nas generate --steer` for changing them.
    """
    check_model(model)
    check_corpus(data, plain=True)
    checkpoint = _load(model, device)
    reading = _read(checkpoint, data, max_tokens, seq_len, threshold)
    if as_json:
        print_json({"model": model, **reading.to_dict()})
        return
    from nas_cli.render.latents import print_reading

    print_reading(model, reading)


def contrast(
    model: ModelArgument,
    having: Annotated[str, typer.Option(metavar="TEXT", help=f"With the attribute. {TEXT_HELP}")],
    lacking: Annotated[str, typer.Option(metavar="TEXT", help="Without the attribute; likewise.")],
    output: AdapterFolder,
    times: Annotated[
        float,
        typer.Option(
            parser=number(-1000, 1000), metavar="NUMBER", help="Factor of the difference; negative: away."
        ),
    ] = 1.0,
    layers: Annotated[
        str | None, typer.Option(metavar="LAYERS", help="Only these, such as 0-3,-1. Default: all.")
    ] = None,
    max_tokens: TokensOption = None,
    seq_len: LengthOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write the difference between the mean latents of two texts as an adapter.

    Added to the latents, it makes generated text more like the first and less like the second.
    """
    from surgery.config.problems import Problem, UserError
    from surgery.config.selector import select_layers

    check_model(model)
    for option, text in (("--having", having), ("--lacking", lacking)):
        check_corpus(text, option, plain=True)
    load_torch()
    from studies.evaluation.model_folder import read_layers
    from studies.latents.contrast import Contrast
    from surgery.latents.adapter import check_adapter_target

    check_adapter_target(output)
    try:
        selected = select_layers(layers, len(read_layers(model).layers))
    except ValueError as error:
        raise UserError("can't contrast", [Problem("--layers", layers, str(error))]) from None
    checkpoint = _load(model, device)
    first, second = (_read(checkpoint, text, max_tokens, seq_len) for text in (having, lacking))
    result = Contrast(first, second)
    adapter = result.adapter(checkpoint, times=times, layers=selected)
    adapter.save(output)
    if as_json:
        print_json({
            "output": str(output), "parameters": adapter.parameters, "times": times,
            "having": {"text": first.text, "tokens": first.tokens},
            "lacking": {"text": second.text, "tokens": second.tokens},
            "projections": [
                {"layer": item.latent.layer, "projection": item.latent.projection, "distance": distance}
                for item, distance in zip(first.statistics, result.distances, strict=True)
            ],
        })  # fmt: skip
        return
    from nas_cli.render.latents import print_contrast

    print_contrast(model, result, adapter, output)


def train(
    model: ModelArgument,
    output: AdapterFolder,
    data: Annotated[
        str, typer.Option(help=f"A folder made by `nas data prepare`, or {CORPUS_HELP}")
    ] = "builtin",
    budget: Annotated[
        int, typer.Option("--tokens", parser=tokens, metavar="TOKENS", help="Training tokens.")
    ] = 500_000,
    seq_len: LengthOption = None,
    batch_tokens: Annotated[
        int, typer.Option(parser=tokens, metavar="TOKENS", help="Tokens per optimizer step.")
    ] = 4096,
    lr: Annotated[
        float, typer.Option(parser=learning_rate, metavar="RATE", help="Peak learning rate.")
    ] = 1e-2,
    eval_tokens: Annotated[
        int, typer.Option(parser=tokens, metavar="TOKENS", help="Held-out tokens for the validation loss.")
    ] = 32_768,
    seed: Annotated[int, typer.Option(parser=seed_number, help="Seed for the data order.")] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train an adapter on a text: one offset per latent, while all weights stay as they are.

    The offsets with the lowest held-out loss are written. Ctrl-C leaves nothing behind.
    """
    check_model(model)
    check_corpus(data)
    load_torch()
    from nas_cli.render.latents import print_trained
    from nas_cli.render.progress import data_progress
    from studies.evaluation.perplexity import trained_length
    from studies.latents.training import AdapterRequest
    from surgery.hf.locate import locate
    from surgery.latents.projections import latent_projections

    length = seq_len or trained_length(locate(model)[0])
    request = AdapterRequest(
        output, data=data, tokens=budget, seq_len=length, batch_tokens=batch_tokens, lr=lr,
        eval_tokens=eval_tokens, seed=seed,
    )  # fmt: skip
    request.check()
    checkpoint = _load(model, device)
    latent_projections(checkpoint.model)
    with data_progress() as on_data:
        text = request.open_text(checkpoint, on_data)
    print_warnings(text.warnings())
    trained = _run(request, checkpoint, text)
    if as_json:
        result = trained.result
        print_json({
            "output": str(output), "parameters": trained.parameters, "step": trained.step,
            "loss_before": trained.before.val_loss, "loss": trained.after.val_loss,
            "bits_per_byte": trained.after.val_bpb, "tokens": result.tokens, "seconds": result.seconds,
        })  # fmt: skip
        return
    print_trained(model, trained, output)


def _run(request: AdapterRequest, checkpoint: Checkpoint, text: TokenData) -> Trained:
    """Train under a progress bar.

    Raises:
        typer.Exit: the training failed, which is printed.
    """
    from rich.text import Text

    from nas_cli.render.bars import training_progress
    from studies.training.errors import TrainingFailed

    try:
        with training_progress() as on_step:
            return request.run(checkpoint, text, on_step)
    except TrainingFailed as error:
        errors.print(Text.assemble(("training failed: ", "bold red"), str(error), "; nothing was written"))
        raise typer.Exit(1) from None


def _load(model: str, device: str) -> Checkpoint:
    load_torch()
    from studies.evaluation.model_folder import load
    from studies.training.devices import pick_device

    with starting(f"loading {model}"):
        checkpoint = load(model, pick_device(device))
    print_warnings(checkpoint.notes)
    return checkpoint


def _read(
    checkpoint: Checkpoint, data: str, max_tokens: int | None, seq_len: int | None, threshold: float = 0.01
) -> Reading:
    """Read a text under a progress bar."""
    from nas_cli.render.bars import stage_progress
    from studies.evaluation.text import read_text
    from studies.latents.reading import read_latents

    with stage_progress() as progress:
        return read_latents(
            checkpoint, read_text(data), seq_len=seq_len, max_tokens=max_tokens, threshold=threshold,
            progress=progress,
        )  # fmt: skip
