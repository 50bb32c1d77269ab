"""Output of `nas apply`: the plan with its costs, the fitted projections, and the verification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nas_cli.render.screen import console, duration, print_warnings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from surgery.apply.fit import FitReport
    from surgery.apply.pipeline import ApplyReport
    from surgery.apply.plan import Plan

COST_WIDTH = 60  # columns of the cost table
ACTIONS = {
    "kept": "kept bit for bit",
    "averaged": "averaged over folded layers",
    "fitted": "fitted to the dense weight",
    "transplanted": "started from the replaced mixer's weights",
    "pruned": "cut to the hidden channels that count most",
    "silent": "zero: the part is silent until trained",
    "new": "new, untrained",
    "shared": "shared with the embedding",
}


def print_plan(plan: Plan) -> None:
    """Print the model before and after, its costs, rules, folded layers and tensors."""
    from surgery.architecture.metrics import parse_metric

    console.print(Text.assemble((plan.model, "bold"), f"  {plan.family}  {plan.before.line}"), soft_wrap=True)
    after = Text.assemble(("becomes ", "dim"), (plan.after.line, "bold"), f"  {plan.after.hash}")
    console.print(after, soft_wrap=True)
    console.print()
    from nas_cli.render.strip import layer_strip, legend

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
        side_by_side = Table.grid(padding=(0, 4))
        side_by_side.add_row(picture, costs)
        console.print(side_by_side)
    else:
        console.print(picture, "", costs, sep="\n")
    console.print(legend(plan.after))
    console.print()
    if plan.rules:
        rules = Table(box=None, pad_edge=False, header_style="bold")
        rules.add_column("rule")
        rules.add_column("projections", justify="right")
        for rule in plan.rules:
            rules.add_row(Text(rule.rule), str(rule.matches))
        console.print(rules)
        console.print()
    if plan.scaled:
        console.print(Text(f"scaled to this model's width and context: {'; '.join(plan.scaled)}"))
        console.print()
    if plan.fold is not None:
        folded = "; ".join(
            f"{layer.index} from {', '.join(map(str, layer.sources))}" for layer in plan.layers
        )
        console.print(Text(f"layers folded ({plan.fold}): {folded}"))
        console.print()
    console.print(_tensor_table(plan))
    console.print(_export_line(plan), soft_wrap=True)
    if plan.unused:
        console.print(f"{len(plan.unused)} tensors of the model are not used")
    print_warnings(plan.warnings)


def _export_line(plan: Plan) -> Text:
    """Return the class that is written, and why it is none of transformers."""
    export = plan.export
    if export.is_stock:
        return Text(f"written as transformers' {export.class_name} ({export.model_type})")
    if not export.reasons:
        return Text(f"written as our {export.class_name}, as asked")
    nearest = export.reasons[0].partition(": ")[0]
    rules = ", ".join(reason.partition(": ")[2] for reason in export.reasons)
    return Text(f"written as our {export.class_name}, since transformers' {nearest} {rules}")


def _tensor_table(plan: Plan) -> Table:
    """Return a table of actions, each with its tensors' count, size and modules."""
    from surgery.apply.tensors import ACTIONS as ORDER
    from surgery.config.quantities import format_bytes

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tensors", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("action", no_wrap=True)
    table.add_column("modules", overflow="fold", style="dim")
    for action in ORDER:
        tensors = [tensor for tensor in plan.tensors if tensor.action == action]
        if tensors:
            names = Text("\n".join(_modules(tensor.name for tensor in tensors)))
            size = format_bytes(sum(tensor.bytes for tensor in tensors))
            table.add_row(str(len(tensors)), size, ACTIONS[action], names)
    return table


def _modules(names: Iterable[str]) -> list[str]:
    """Return the modules of the tensors, one line per group of layers: `layers 0-29: mixer.q, mixer.k`."""
    from surgery.config.selector import write_layers

    layers_of_module: dict[str, list[int]] = {}
    for name in names:
        parts = name.split(".")
        if parts[0] == "layers":
            module = ".".join(parts[2 : 4 if len(parts) > 4 else 3])
            layers = layers_of_module.setdefault(module, [])
            if int(parts[1]) not in layers:
                layers.append(int(parts[1]))
        else:
            layers_of_module.setdefault(parts[0], [])
    groups: dict[tuple[int, ...], list[str]] = {}
    for module, layers in layers_of_module.items():
        groups.setdefault(tuple(sorted(layers)), []).append(module)
    lines = []
    for layers_of, modules in groups.items():
        where = f"layers {write_layers(layers_of, None)}: " if layers_of else ""
        lines.append(where + ", ".join(modules))
    return lines


def print_result(report: ApplyReport) -> None:
    """Print fit errors, the verification and the next commands."""
    if report.fits:
        console.print()
        console.print(_fit_table(report.fits))
    verification = report.verification
    assert verification is not None, "only a dry run is not verified"
    console.print()
    console.print(
        f"[green]verified[/] in a fresh process, {verification.dtype}: logits differ by at most "
        f"{verification.max_logit_difference:.1e}, generation with and without cache agrees on "
        f"{verification.equal_tokens} of {verification.new_tokens} tokens"
    )
    console.print(
        f"wrote {report.out} in {duration(report.seconds)}; next: [bold]nas eval {report.out}[/], "
        f'[bold]nas generate {report.out} "Once"[/]',
        soft_wrap=True,
    )


def _fit_table(fits: tuple[FitReport, ...]) -> Table:
    """Return a table of each projection's mean and worst relative error over its layers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("fitted", no_wrap=True)
    table.add_column("operator")
    for name in ("layers", "weight error", "output error", "worst layer"):
        table.add_column(name, justify="right")
    groups: dict[tuple[str, str], list[FitReport]] = {}
    for fit in fits:
        groups.setdefault((fit.projection, fit.operator), []).append(fit)
    for (projection, operator), group in groups.items():
        outputs = [fit.output_error for fit in group if fit.output_error is not None]
        weights = [fit.weight_error for fit in group if fit.weight_error is not None]
        worst = max(group, key=lambda fit: fit.output_error or fit.weight_error or 0.0)
        largest = worst.output_error or worst.weight_error
        table.add_row(
            projection,
            Text(operator),
            str(len(group)),
            f"{sum(weights) / len(weights):.3f}" if weights else "–",
            f"{sum(outputs) / len(outputs):.3f}" if outputs else "–",
            f"{worst.layer} ({largest:.3f})" if largest is not None else "–",
        )
    return table
