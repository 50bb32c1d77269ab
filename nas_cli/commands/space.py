"""`nas space`: search spaces, their sizes and costs, and sampled architectures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from nas_cli.files import check_free, write_architecture
from nas_cli.help import add_command
from nas_cli.opening import open_space
from nas_cli.options import JsonOption, ModelOption, SpaceArgument
from nas_cli.probes import recall_words, state_words
from nas_cli.render.counts import seed as seed_number
from nas_cli.render.screen import console, print_json, print_warnings

if TYPE_CHECKING:
    from search_spaces import SearchSpace
    from surgery.architecture import Architecture
    from surgery.config.problems import Problem


def add_to(app: typer.Typer) -> None:
    """Add the `space` commands to `app`."""
    group = typer.Typer(no_args_is_help=True)
    add_command(group, "list", list_spaces, "nas space list", "nas space list --json")
    add_command(
        group,
        "show",
        show,
        "nas space show tiny",
        "nas space show tiny --yaml > mine.yaml",
        "nas space show pretrained --model HuggingFaceTB/SmolLM2-135M",
    )
    add_command(group, "validate", validate, "nas space validate mine.yaml")
    add_command(
        group,
        "sample",
        sample,
        "nas space sample tiny -n 5",
        "nas space sample tiny --seed 7 -o architecture.yaml",
    )
    app.add_typer(group, name="space", help="Inspect search spaces: list, show, validate, sample.")


def list_spaces(as_json: JsonOption = False) -> None:
    """List the presets and the space files in the current folder."""
    from search_spaces.summary import list_spaces as spaces_in

    spaces = spaces_in(Path())
    if as_json:
        print_json([
            {
                "name": item.name,
                "kind": item.kind,
                "summary": item.summary,
                "valid": item.space is not None or item.needs_model or item.model is not None,
                "needs_model": item.needs_model,
                "model": item.model,
                "problems": item.problems,
                "settings": item.space.size().count if item.space else None,
                "objectives": _objectives(item.space) if item.space else None,
            }
            for item in spaces
        ])  # fmt: skip
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("space", "left"), ("", "left"), ("settings", "right"), ("about", "left")):
        table.add_column(name, justify=justify, no_wrap=name != "about")  # type: ignore[arg-type]
    for item in spaces:
        if item.needs_model or item.model is not None:
            what = "--model" if item.model is None else "of a model"
            table.add_row(Text(item.name, style="bold"), item.kind, what, Text(item.summary))
        elif item.space is None:
            count = f"{item.problems} problem{'s' if item.problems != 1 else ''}"
            note = Text(f"{count}; see nas space validate {item.name}", style="red")
            table.add_row(Text(item.name, style="bold"), item.kind, "–", note)
        else:
            size = f"{item.space.size().count:,}"
            table.add_row(Text(item.name, style="bold"), item.kind, size, Text(item.summary))
    console.print(table)
    console.print("\nnext: [bold]nas space show NAME[/], or copy one: [bold]nas space show NAME --yaml[/]")


def show(
    space: SpaceArgument,
    model: ModelOption = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the file itself, including comments.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a space: searched fields, size, costs of its architectures, and the proxy.

    Latencies (decode_ms, prefill_ms) depend on a device and are not measured here: `nas search` does that.
    """
    from search_spaces.summary import summarise

    loaded = open_space(space, model)
    if as_yaml:
        print(loaded.to_yaml(), end="")
        return
    data = summarise(loaded)
    if as_json:
        print_json(data)
        return
    _print_space(loaded, data)
    print_warnings(data["warnings"])


def validate(
    spaces: Annotated[list[str], typer.Argument(help="Presets or YAML files.", metavar="SPACE...")],
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check spaces; report all problems at once, with their lines (exit code 2).

    Limits on latencies are not checked against a device; `nas search` does that once its blocks are timed.
    """
    from surgery.config.problems import UserError

    results: list[dict[str, Any]] = []
    wrong = 0
    for name in spaces:
        try:
            loaded = open_space(name, model)
        except UserError as error:
            wrong += 1
            if not as_json:
                from nas_cli.render.screen import print_error

                print_error(error)
            problems = [
                {
                    "line": item.line,
                    "field": item.field,
                    "value": item.value,
                    "rule": item.rule,
                    "hint": item.hint,
                }
                for item in error.problems
            ]
            results.append({"space": name, "valid": False, "problems": problems, "warnings": []})
            continue
        warnings = loaded.warnings()
        results.append({"space": name, "valid": True, "problems": [], "warnings": warnings})
        if not as_json:
            console.print(f"[green]valid[/]  [bold]{name}[/]  {loaded.size()}", soft_wrap=True)
            print_warnings(warnings)
    if as_json:
        print_json(results)
    if wrong:
        raise typer.Exit(2)


def sample(
    space: SpaceArgument,
    model: ModelOption = None,
    number: Annotated[
        int, typer.Option("--number", "-n", min=1, max=1000, help="Number of architectures.")
    ] = 3,
    seed: Annotated[int, typer.Option(parser=seed_number, help="Random seed.")] = 0,
    anything: Annotated[
        bool, typer.Option("--any", help="Include architectures that violate constraints.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the first one to this file, for `nas train`.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Sample random architectures: show a picture, costs, and whether they meet the constraints."""
    from search_spaces.summary import describe_architecture, draw
    from surgery.config.problems import Problem, UserError

    if output is not None and not overwrite:
        check_free(output)
    loaded = open_space(space, model)
    drawn = draw(loaded, 1 if output else number, seed, feasible=not anything)
    if not drawn:
        problem = Problem(
            "constraints", None, "hardly any architecture meets them", "sample with --any, or relax one"
        )
        raise UserError(f"{space}: nothing sampled", [problem])
    if output is not None:
        write_architecture(
            output, f"# sampled from space {loaded.name}, seed {seed}: {drawn[0].line}\n{drawn[0].to_yaml()}"
        )
    if as_json:
        print_json([{**describe_architecture(loaded, item), "yaml": item.to_dict()} for item in drawn])
        return
    from nas_cli.render.strip import legend, strip_with_facts

    for index, architecture in enumerate(drawn):
        if index:
            console.print()
        console.print(Text(architecture.line, style="bold"), soft_wrap=True)
        console.print(strip_with_facts(architecture, _facts(loaded, architecture)))
        print_warnings(architecture.warnings())
    console.print(legend(*drawn))
    if len(drawn) < number and output is None:
        console.print(f"[yellow]only {len(drawn)} distinct architectures found[/]")
    if output is not None:
        console.print(f"wrote {output}; next: [bold]nas train {output} -o OUT[/]", soft_wrap=True)


def _facts(space: SearchSpace, architecture: Architecture) -> list[Text]:
    """Return the lines of text next to the picture."""
    from search_spaces.summary import costs_of
    from surgery.architecture.metrics import parse_metric

    lines = [Text.assemble(("hash ", "dim"), architecture.hash)]
    for name, value in costs_of(space, architecture).items():
        metric, _ = parse_metric(name)
        unit = "" if metric.unit == "bytes" else f" {metric.unit}"
        lines.append(Text.assemble((f"{name:<22}", "dim"), f"{metric.format(value)}{unit}"))
    broken = space.violations(architecture)
    if broken:
        lines += [Text(str(item), style="red") for item in broken]
    elif checked := [str(item) for item in space.constraints if item.metric.analytic]:
        lines.append(Text(f"meets {', '.join(checked)}", style="green"))
    if space.timed_metrics:
        lines.append(Text(f"{', '.join(space.timed_metrics)}: not measured here", style="dim"))
    return lines


def _print_space(space: SearchSpace, data: dict[str, Any]) -> None:
    console.print(Text.assemble((space.name, "bold"), f"  {data['summary']}"), soft_wrap=True)
    console.print(Text(f"{space.source}  digest {space.digest}", style="dim"), soft_wrap=True)
    console.print(Text(_backbone(data["backbone"])))
    console.print()
    console.print(_search_table(data))
    console.print()
    console.print(Text.assemble(("size  ", "bold"), str(space.size())))
    console.print()
    console.print(_cost_table(data))
    console.print(_letters(space))
    console.print()
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column()
    share = f"{data['feasible_share']:.1%} of random architectures meet them"
    if any(item.metric.timed for item in space.constraints):
        share += ", latencies aside"
    limits = ", ".join(map(str, space.constraints))
    rows.add_row("constraints", f"{limits}  [dim]{share}[/]" if limits else "none")
    rows.add_row("objectives", ", ".join(f"{name} {better}" for name, better in data["objectives"].items()))
    if data["latency"] is not None:
        sequences = f"batch {data['latency']['batch']}"
        rows.add_row("latency", f"{', '.join(space.timed_metrics)}: {sequences}, timed by nas search")
    if data["library"] is not None:
        rows.add_row("model", data["model"])
        rows.add_row("library", _library(data["library"]))
    else:
        rows.add_row("proxy", _proxy(data["proxy"]))
        for name, describe in (("recall", recall_words), ("state", state_words)):
            if name in data["proxy"]:
                rows.add_row(name, describe(data["proxy"][name]))
    rows.add_row("data", f"{data['data']['corpus']}, tokenizer {data['data']['tokenizer']}")
    console.print(rows)


def _search_table(data: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("searched", no_wrap=True)
    table.add_column("values")
    table.add_column("", style="dim")
    for name, item in data["search"].items():
        table.add_row(name, Text(_distribution(item["distribution"])), item["help"])
    for name, value in data["fixed"].items():
        table.add_row(Text(name, style="dim"), Text(f"fixed at {_distribution(value)}", style="dim"), "")
    return table


def _cost_table(data: dict[str, Any]) -> Table:
    """Return a table with costs as columns; the space's range, then its baselines, as rows."""
    from surgery.architecture.metrics import parse_metric

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cost", no_wrap=True)
    for name in data["costs"]:
        table.add_column(name, justify="right")
    table.add_column("")

    def formatted(name: str, value: float) -> str:
        return parse_metric(name)[0].format(value)

    for label in ("min", "median", "max"):
        table.add_row(label, *(formatted(name, item[label]) for name, item in data["costs"].items()), "")
    for baseline, item in data["baselines"].items():
        note = Text(item["line"], style="dim")
        for text in item["violations"]:
            note.append(f"\n{text}", style="yellow")
        costs = (formatted(name, value) for name, value in item["costs"].items())
        table.add_row(Text(baseline, style="magenta"), *costs, note)
    return table


def _letters(space: SearchSpace) -> Text:
    """Return what the letters of this space's layouts stand for."""
    from search_spaces.summary import draw
    from surgery.mixers import MIXERS

    drawn = [*space.baselines.values(), *draw(space, 16, 0, feasible=False)]
    used = {letter for architecture in drawn for letter in architecture.layout}
    words = [f"{letter} {spec.name}" for letter, spec in MIXERS.items() if letter in used]
    return Text(", ".join(words), style="dim")


def _distribution(plain: Any) -> str:
    """Format a distribution: `2, 4, 8`, `1 … 3`, `1e-05 … 0.1, log-uniform`, `any of q k v`."""
    match plain:
        case {"choice": items}:
            return ", ".join(_value(item) for item in items)
        case {"range": [low, high], **rest}:
            return f"{low} … {high}" + (f" in steps of {rest['step']}" if "step" in rest else "")
        case {"log": [low, high]}:
            return f"{low:g} … {high:g}, log-uniform"
        case {"subset": names}:
            return f"any of {' '.join(names)}"
        case dict():
            return ", ".join(f"{name} {_share(item)}" for name, item in plain.items())
        case _:
            return _value(plain)


def _value(item: Any) -> str:
    if isinstance(item, list):
        return " ".join(map(str, item)) or "none"
    return str(item)


def _share(item: Any) -> str:
    return f"{item[0]} … {item[1]}" if isinstance(item, list) else str(item)


def _backbone(data: dict[str, Any]) -> str:
    heads, kv = data["num_heads"], data["num_kv_heads"]
    attention = f"{heads} heads of {data['head_dim']}" + (
        "" if kv == heads else f", {kv} for keys and values"
    )
    extras = [
        "tied embeddings" if data["tie_embeddings"] else "untied embeddings",
        *(["qk-norm"] if data.get("qk_norm") else []),
        *(["norms after mixer and SwiGLU"] if data.get("post_norm") else []),
        *([f"but before them in layers {data['pre_norm_layers']}"] if data.get("pre_norm_layers") else []),
        *([f"no rotation in layers {data['no_rope_layers']}"] if data.get("no_rope_layers") else []),
        *([f"biases on {' '.join(data['biases'])}"] if data.get("biases") else []),
    ]
    return (
        f"backbone: {data['num_layers']} layers of width {data['dim']}, {attention}, ffn {data['ffn_dim']}, "
        f"vocabulary {data['vocab_size']:,}, rope theta {data['rope_theta']:g}, {', '.join(extras)}"
    )


def _proxy(data: dict[str, Any]) -> str:
    from surgery.config.quantities import format_count

    rungs = ", ".join(f"{rung:g}" for rung in data["rungs"])
    seeds = f", {data['seeds']} seeds" if data["seeds"] > 1 else ""
    time = f"{data['seconds']:g} s of training, at most " if "seconds" in data else ""
    warmup = f"{data['warmup']:g}" if data["warmup"] < 1 else f"{format_count(data['warmup'])} tokens"
    return (
        f"{time}{format_count(data['tokens'])} tokens in {data['steps']:,} steps of "
        f"{data['batch_tokens']:,}, sequences of {data['seq_len']:,}, lr {data['lr']:g}, "
        f"warm-up {warmup}, weight decay {data['weight_decay']:g}, rungs {rungs}{seeds}"
    )


def _library(data: dict[str, Any]) -> str:
    from surgery.config.quantities import format_count

    fit, align, scored, measured = (
        format_count(data[f"{name}_tokens"]) for name in ("fit", "align", "score", "eval")
    )
    aligned = f", aligned on {align}" if data["align_tokens"] else ""
    return (
        f"replacements fitted to {fit} tokens{aligned}, scored on {scored} and designs measured on "
        f"{measured} held-out tokens, sequences of {data['seq_len']:,}"
    )


def _plain(problem: Problem) -> dict[str, Any]:
    """Return the fields for JSON; values without a JSON type, such as a YAML date, become text."""
    return {key: json.loads(json.dumps(value, default=str)) for key, value in asdict(problem).items()}


def _objectives(space: SearchSpace) -> dict[str, str]:
    return {item.name: item.direction for item in space.objectives}
