"""`nas apply`: a pretrained model into an architecture; the plan, the losses and the proof on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from nas_cli.counts import learning_rate, tokens
from nas_cli.data import CORPUS_HELP
from nas_cli.options import MOST_SEED, DeviceOption, JsonOption, OverwriteOption
from nas_cli.screen import console, duration, errors, print_json, print_warnings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from studies.heal import Healer
    from surgery.apply.fit import FitReport
    from surgery.apply.pipeline import ApplyReport
    from surgery.apply.plan import Plan
    from surgery.apply.source import SourceModel

COST_WIDTH = 60  # columns that the table of costs takes
ACTIONS = {
    "kept": "kept bit for bit",
    "averaged": "averaged over folded layers",
    "fitted": "fitted to the dense weight",
    "new": "new, untrained",
    "shared": "shared with the embedding",
}


def add_to(app: typer.Typer) -> None:
    app.command("apply")(apply)


def apply(
    architecture: Annotated[
        Path, typer.Argument(metavar="ARCH", help="An architecture file; its backbone may be left out.")
    ],
    model: Annotated[str, typer.Argument(help="A Llama-family model: a folder, or an id on the Hub.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the new model.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    fold: Annotated[
        str, typer.Option(help="How a layer comes from those folded onto it: average or first.")
    ] = "average",
    calibrate: Annotated[
        str, typer.Option(metavar="CORPUS|none", help="Text whose activations operators are fitted to.")
    ] = "builtin",
    heal: Annotated[
        int | None,
        typer.Option(parser=tokens, metavar="TOKENS", help="Train the result on so many tokens of --data."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"Text for --heal and for losses before and after: {CORPUS_HELP} Healing: builtin."
        ),
    ] = None,
    # a tenth of what such models are trained with: the weights are good already
    lr: Annotated[
        float, typer.Option(parser=learning_rate, metavar="RATE", help="Peak learning rate of healing.")
    ] = 3e-4,
    seq_len: Annotated[
        int,
        typer.Option("--seq-len", parser=tokens, metavar="TOKENS", help="Tokens of a sequence of --data."),
    ] = 512,
    batch_tokens: Annotated[
        int, typer.Option(parser=tokens, metavar="TOKENS", help="Tokens of a step of healing.")
    ] = 4096,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Seeds the data order and noise of healing.")
    ] = 0,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Rewrite a pretrained model into an architecture: plan, fit, verify in a fresh process, write.

    Nothing stands at --output unless the result loads and gives the same numbers.
    """
    if output is None and not dry_run:
        raise typer.BadParameter("is needed (or --dry-run)", param_hint="--output")
    from studies.descent import TrainingFailed
    from studies.devices import pick_device
    from studies.heal import calibration_texts
    from surgery.apply.pipeline import apply as rewrite
    from surgery.apply.plan import plan
    from surgery.apply.source import read_source
    from surgery.hf.staging import check_target

    place = pick_device(device)
    source = read_source(model)
    drawn = plan(source, architecture, fold=fold, out=output)
    if not as_json:
        _print_plan(drawn)
    healer: Healer | None = None
    texts: list[str] | None = None
    if not dry_run:
        check_target(output or "", overwrite=overwrite)
        if drawn.fitted and calibrate != "none":
            texts = calibration_texts(calibrate)
        if heal is not None or data is not None:
            healer = _healer(source, data or "builtin", heal, lr, seq_len, batch_tokens, seed, device)
    from nas_cli.bars import stage_progress

    try:
        with stage_progress() as progress:
            if healer is not None:
                healer.on_stage = progress
                healer.on_step = lambda now: progress(
                    f"healing, loss {now.loss:.3f}, {now.tokens_per_s / 1e3:.1f}k tok/s,", now.step, now.steps
                )
            report = rewrite(
                source, architecture, output, dry_run=dry_run, fold=fold, calibration=texts, heal=healer,
                overwrite=overwrite, device=place, progress=progress,
            )  # fmt: skip
    except TrainingFailed as error:
        errors.print(Text.assemble(("healing failed: ", "bold red"), str(error), "; nothing was written"))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print("stopped; nothing was written")
        raise
    healing = healer.healing if healer is not None else None
    if as_json:
        print_json({**report.to_dict(), "healing": healing.to_dict() if healing else None})
        return
    if dry_run:
        console.print("\n[dim]a dry run: nothing was written[/]")
        return
    _print_result(report)


def _healer(
    source: SourceModel, data: str, heal: int | None, lr: float, seq_len: int, batch_tokens: int, seed: int,
    device: str,
) -> Healer:  # fmt: skip
    from nas_cli.progress import data_progress
    from studies.devices import pick_device
    from studies.heal import EVAL_TOKENS, Healer
    from studies.pretrain import check_budget, open_text
    from studies.recipe import TrainSettings

    settings = None
    if heal is not None:
        settings = TrainSettings(
            tokens=heal, seq_len=seq_len, batch_tokens=batch_tokens, lr=lr, eval_tokens=EVAL_TOKENS,
            order_seed=seed,
        )  # fmt: skip
        check_budget(settings)
    with data_progress() as progress:
        text = open_text(data, str(source.folder), heal or EVAL_TOKENS, progress)

    def tell(what: str, loss: float, bpb: float) -> None:
        told = f"loss {loss:.4f} nats/token, {bpb:.4f} bits/byte on held-out text of {data}"
        errors.print(Text.assemble((f"{what} model: ", "bold"), told), soft_wrap=True)

    return Healer(
        source, text, settings, seq_len=seq_len, seed=seed, device=pick_device(device),
        on_loss=tell,
    )  # fmt: skip


def _print_plan(plan: Plan) -> None:
    from surgery.costs import parse_metric

    console.print(Text.assemble((plan.model, "bold"), f"  {plan.family}  {plan.before.line}"), soft_wrap=True)
    after = Text.assemble(("becomes ", "dim"), (plan.after.line, "bold"), f"  {plan.after.hash}")
    console.print(after, soft_wrap=True)
    console.print()
    from nas_cli.strip import layer_strip

    costs = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("cost", "left"), ("before", "right"), ("after", "right"), ("change", "right")):
        costs.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for cost in plan.costs:
        metric, _ = parse_metric(cost.metric)
        change = Text(f"{cost.after / cost.before - 1:+.1%}")
        change.stylize(
            "green" if cost.after < cost.before else "yellow" if cost.after > cost.before else "dim"
        )
        costs.add_row(cost.metric, metric.format(cost.before), metric.format(cost.after), change)
    picture = layer_strip(plan.after)
    if max(len(line) for line in picture.plain.splitlines()) + COST_WIDTH <= console.width:
        beside = Table.grid(padding=(0, 4))
        beside.add_row(picture, costs)
        console.print(beside)
    else:
        console.print(picture, "", costs, sep="\n")
    console.print()
    if plan.rules:
        rules = Table(box=None, pad_edge=False, header_style="bold")
        rules.add_column("rule")
        rules.add_column("projections", justify="right")
        for rule in plan.rules:
            rules.add_row(Text(rule.rule), str(rule.matches))
        console.print(rules)
        console.print()
    if plan.fold is not None:
        folded = "; ".join(
            f"{layer.index} from {', '.join(map(str, layer.sources))}" for layer in plan.layers
        )
        console.print(Text(f"layers folded ({plan.fold}): {folded}"))
        console.print()
    console.print(_tensor_table(plan))
    if plan.unused:
        console.print(f"{len(plan.unused)} tensors of the model go nowhere")
    print_warnings(plan.warnings)


def _tensor_table(plan: Plan) -> Table:
    """What happens to how many tensors, and to which."""
    from surgery.apply.tensors import ACTIONS as ORDER
    from surgery.quantities import format_bytes

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tensors", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("what happens", no_wrap=True)
    table.add_column("to which", overflow="fold", style="dim")
    for action in ORDER:
        tensors = [tensor for tensor in plan.tensors if tensor.action == action]
        if tensors:
            names = Text("\n".join(_places(tensor.name for tensor in tensors)))
            size = format_bytes(sum(tensor.bytes for tensor in tensors))
            table.add_row(str(len(tensors)), size, ACTIONS[action], names)
    return table


def _places(names: Iterable[str]) -> list[str]:
    """Modules instead of tensors, those of the same layers on one line: `layers 0-29: mixer.q, mixer.k`."""
    from surgery.rules import write_layers

    found: dict[str, list[int]] = {}
    for name in names:
        parts = name.split(".")
        if parts[0] == "layers":
            module = ".".join(parts[2 : 4 if len(parts) > 4 else 3])
            layers = found.setdefault(module, [])
            if int(parts[1]) not in layers:
                layers.append(int(parts[1]))
        else:
            found.setdefault(parts[0], [])
    groups: dict[tuple[int, ...], list[str]] = {}
    for module, layers in found.items():
        groups.setdefault(tuple(sorted(layers)), []).append(module)
    lines = []
    for layers_of, modules in groups.items():
        where = f"layers {write_layers(layers_of, max(layers_of) + 2)}: " if layers_of else ""
        lines.append(where + ", ".join(modules))
    return lines


def _print_result(report: ApplyReport) -> None:
    if report.fits:
        console.print()
        console.print(_fit_table(report.fits))
    found = report.verification
    assert found is not None, "only a dry run is not verified"
    console.print()
    console.print(
        f"[green]verified[/] in a fresh process, {found.dtype}: logits differ by at most "
        f"{found.max_logit_difference:.1e}, generation with and without cache agrees on "
        f"{found.equal_tokens} of {found.new_tokens} tokens"
    )
    console.print(
        f"wrote {report.out} in {duration(report.seconds)}; next: [bold]nas eval {report.out}[/], "
        f'[bold]nas generate {report.out} "Once"[/]',
        soft_wrap=True,
    )


def _fit_table(fits: tuple[FitReport, ...]) -> Table:
    """Mean and worst relative error of each projection over its layers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("fitted", no_wrap=True)
    table.add_column("operator")
    for name in ("layers", "weight error", "output error", "worst layer"):
        table.add_column(name, justify="right")
    groups: dict[tuple[str, str], list[FitReport]] = {}
    for fit in fits:
        groups.setdefault((fit.projection, fit.operator), []).append(fit)
    for (projection, operator), found in groups.items():
        outputs = [fit.output_error for fit in found if fit.output_error is not None]
        worst = max(found, key=lambda fit: fit.output_error or fit.weight_error)
        table.add_row(
            projection,
            Text(operator),
            str(len(found)),
            f"{sum(fit.weight_error for fit in found) / len(found):.3f}",
            f"{sum(outputs) / len(outputs):.3f}" if outputs else "–",
            f"{worst.layer} ({worst.output_error or worst.weight_error:.3f})",
        )
    return table
