"""`nas apply`: convert a pretrained model to an architecture; prints the plan, losses and verification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from nas_cli import completion
from nas_cli.by_name import refuse_name
from nas_cli.choices import Fold, HealLoss, Optimizer
from nas_cli.commands.data import CORPUS_HELP
from nas_cli.files import write_plan
from nas_cli.healing import loss_lines, refuse_healing_options, show_progress
from nas_cli.help import add_command
from nas_cli.imports import quick_imports
from nas_cli.opening import check_corpus, check_model
from nas_cli.options import (
    MOST,
    DeviceOption,
    ExportOption,
    JsonOption,
    OverwriteOption,
    TrackOption,
    given,
)
from nas_cli.render.bars import stage_progress
from nas_cli.render.counts import learning_rate, number, tokens
from nas_cli.render.counts import seed as seed_number
from nas_cli.render.healing import print_healing
from nas_cli.render.plan import print_plan, print_result
from nas_cli.render.progress import data_progress
from nas_cli.render.screen import console, errors, print_json, print_warnings, starting
from nas_cli.tracking import chosen_trackers, print_stores

if TYPE_CHECKING:
    from studies.healing.healer import Healer
    from studies.healing.request import Surgery
    from studies.tracking.choice import Choice
    from surgery.apply.pipeline import ApplyReport


def add_to(app: typer.Typer) -> None:
    """Add `apply` to `app`."""
    add_command(
        app,
        "apply",
        apply,
        "nas apply design.yaml HuggingFaceTB/SmolLM2-135M --dry-run",
        "nas apply design.yaml HuggingFaceTB/SmolLM2-135M -o hybrid --heal 1M --control",
    )


def apply(
    context: typer.Context,
    architecture: Annotated[
        Path,
        typer.Argument(
            metavar="ARCH",
            autocompletion=completion.architectures,
            help="An architecture file, without a backbone if you like, or a plan.",
        ),
    ],
    model: Annotated[str, typer.Argument(help="A Llama-family model: a folder or a Hub id.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the new model.")
    ] = None,
    export: ExportOption = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan without writing anything.")
    ] = False,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Write the plan to this file; edited, it can be ARCH."),
    ] = None,
    fold: Annotated[
        Fold, typer.Option(help="How layers are merged where the architecture has fewer.")
    ] = "average",
    hdpl_fit: Annotated[
        Literal["full", "paired"],
        typer.Option(
            help="HDPL's latents. full: small ones; paired: opposite pairs, exact, of half the rank."
        ),
    ] = "full",
    calibrate: Annotated[
        str,
        typer.Option(metavar="CORPUS|none", help="Text for the activations that operators are fitted to."),
    ] = "builtin",
    calibrate_tokens: Annotated[
        int,
        typer.Option(parser=tokens, metavar="TOKENS", help="Tokens of --calibrate, about; more fit better."),
    ] = 8192,
    heal: Annotated[
        int | None,
        typer.Option(parser=tokens, metavar="TOKENS", help="Train the result on this many tokens of --data."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"Text for --heal and for losses before and after: {CORPUS_HELP} For --heal: builtin."
        ),
    ] = None,
    align: Annotated[
        int | None,
        typer.Option(
            parser=tokens,
            metavar="TOKENS",
            help="First train each new part alone, on the original model's activations.",
        ),
    ] = None,
    heal_loss: Annotated[
        HealLoss,
        typer.Option(
            help="Loss of --heal. ce: cross-entropy with the text's tokens; kl: divergence from the original "
            "model; both: their mean."
        ),
    ] = "both",
    heal_optimizer: Annotated[
        Optimizer,
        typer.Option(
            help="Optimizer of --heal. muon: Muon for the matrices of layers, AdamW for all else, with the "
            "same rates."
        ),
    ] = "adamw",
    # a tenth of the usual training rate, since the weights are already good
    lr: Annotated[
        float, typer.Option(parser=learning_rate, metavar="RATE", help="Peak learning rate for healing.")
    ] = 3e-4,
    lr_new: Annotated[
        float | None,
        typer.Option(
            parser=learning_rate,
            metavar="RATE",
            help="Peak learning rate of new parts. "
            "Default: --lr where fitted or pruned, 4 times that where transplanted or new.",
        ),
    ] = None,
    hidden_weight: Annotated[
        float,
        typer.Option(
            parser=number(0, 1000),
            metavar="WEIGHT",
            help="Weight of the distance from the original model's hidden states in the loss of --heal.",
        ),
    ] = 0.0,
    lora: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            metavar="RANK",
            help="Train what is the original's by adapters of this rank only, and merge them in the end.",
        ),
    ] = None,
    checkpoint_activations: Annotated[
        bool,
        typer.Option(
            "--checkpoint-activations",
            help="Recompute activations in the backward pass: less memory, slower.",
        ),
    ] = False,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Parameters that --heal does not train, such as 'layers.*.ffn.*'; may be repeated.",
        ),
    ] = None,
    control: Annotated[
        bool,
        typer.Option("--control", help="Train the original model by the same recipe, to compare with."),
    ] = False,
    seq_len: Annotated[
        int,
        typer.Option("--seq-len", parser=tokens, metavar="TOKENS", help="Tokens per sequence of --data."),
    ] = 512,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            parser=tokens,
            metavar="TOKENS",
            help="Tokens per healing step. Default: 16384 from a million tokens on, else 4096.",
        ),
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST,
            metavar="STEPS",
            help="Steps between held-out losses. Default: at most ten of them, chosen by the budget.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(parser=seed_number, help="Seed for data order and noise when healing.")
    ] = 0,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    track: TrackOption = None,
    as_json: JsonOption = False,
) -> None:
    """Convert a pretrained model to an architecture: plan, fit, verify in a fresh process, write.

    --output is only written if the result loads and reproduces the same numbers.
    """
    if output is None and not dry_run:
        raise typer.BadParameter("is required (or --dry-run)", param_hint="--output")
    refuse_healing_options(context, heal, align, data)
    trackers = chosen_trackers(track)
    _check(architecture, model, data, calibrate)
    with starting(f"reading {model}"), quick_imports():
        from studies.healing.request import ApplyRequest

        request = ApplyRequest(
            architecture, model, output, dry_run=dry_run, fold=fold, export=export, hdpl_fit=hdpl_fit,
            calibrate=calibrate,
            calibrate_tokens=calibrate_tokens, heal=heal, align=align, data=data, heal_loss=heal_loss,
            heal_optimizer=heal_optimizer, lr=lr, lr_new=lr_new,
            hidden_weight=hidden_weight, lora=lora, checkpoint_activations=checkpoint_activations,
            freeze=tuple(freeze or ()), control=control,
            seq_len=seq_len, batch_tokens=batch_tokens, eval_every=eval_every, seed=seed, overwrite=overwrite,
            device=device,
        )  # fmt: skip
        surgery = request.plan()
    if not as_json:
        print_plan(surgery.planned)
    if plan_file is not None:
        write_plan(plan_file, surgery.planned.to_yaml())
    if not surgery.planned.uses_text and given(context, "calibrate"):
        print_warnings(["--calibrate has no effect: nothing is fitted, transplanted or pruned"])
    with data_progress() as on_data:
        text = surgery.open_text(on_data)
    healer = surgery.healer(text, loss_lines())
    report = _run(surgery, healer, trackers)
    healing = healer.healing if healer is not None else None
    if as_json:
        print_json({**report.to_dict(), "healing": healing.to_dict() if healing else None})
        return
    if dry_run:
        console.print("\n[dim]dry run: nothing was written[/]")
        return
    if healing is not None:
        print_healing(healing)
    print_result(report)
    if trackers and output is not None:
        from studies.tracking.training import stores

        print_stores(trackers, stores(output))


def _check(architecture: Path, model: str, data: str | None, calibrate: str) -> None:
    """Refuse what is something else than it should be before torch is loaded.

    Raises:
        UserError: no such architecture, model or text.
    """
    from surgery.config.recognise import refuse_other
    from surgery.config.yaml_source import load_yaml

    refuse_name(str(architecture), "architecture", "design", "plan")
    refuse_other(architecture, "architecture", "design", "plan")
    load_yaml(architecture)
    check_model(model)
    check_corpus(data)
    check_corpus(calibrate if calibrate != "none" else None, "--calibrate")


def _run(surgery: Surgery, healer: Healer | None, trackers: Sequence[Choice]) -> ApplyReport:
    """Rewrite under a progress bar, and heal in trackers.

    Raises:
        typer.Exit: the training failed, which is printed.
    """
    from studies.tracking.training import track_healing
    from studies.training.errors import TrainingFailed

    try:
        with stage_progress() as progress:
            if healer is None:
                return surgery.run(healer, progress)
            show_progress(healer.watch, progress)
            with track_healing(healer, trackers, lambda text: print_warnings([text])):
                return surgery.run(healer, progress)
    except TrainingFailed as error:
        errors.print(Text.assemble(("healing failed: ", "bold red"), str(error), "; nothing was written"))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        kept = healer is not None and healer.saved is not None
        errors.print(f"Interrupted. {'Run the same command to resume.' if kept else 'Nothing was written.'}")
        raise
