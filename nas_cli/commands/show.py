"""`nas show`: details of a study, one of its trials, or an architecture file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from nas_cli import completion
from nas_cli.by_name import refuse_name
from nas_cli.help import add_command
from nas_cli.opening import open_study
from nas_cli.options import JsonOption, RunsOption, StorageOption
from nas_cli.render.screen import console, duration, print_json, print_warnings
from nas_cli.render.understanding import print_dead_knobs, print_growth, print_importances
from studies.files.defaults import DEFAULT_RUNS

if TYPE_CHECKING:
    from search_spaces import SearchSpace
    from studies.analysis.dead_knobs import DeadKnob
    from studies.analysis.importances import Importances
    from studies.analysis.standings import Standing, Standings
    from studies.reporting.explanation import Explanation
    from studies.study import Study
    from studies.study.trial_record import TrialRecord
    from surgery.architecture import Architecture


def add_to(app: typer.Typer) -> None:
    """Add `show` to `app`."""
    add_command(
        app,
        "show",
        show,
        "nas show demo",
        "nas show demo 12",
        "nas show demo --importances",
        "nas show pick.yaml",
    )


def show(
    what: Annotated[
        str,
        typer.Argument(help="A study, or an architecture file.", autocompletion=completion.studies_and_files),
    ],
    trial: Annotated[int | None, typer.Argument(help="Trial number. Default: show the study.")] = None,
    importances: Annotated[
        bool, typer.Option("--importances", help="For a study: importances and dead hyperparameters.")
    ] = False,
    scores: Annotated[
        bool,
        typer.Option("--scores", help="For a study of a pretrained model: the score of every replacement."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="For a study: write a plot of its hypervolume, or with --scores of these: .png, .svg, .pdf "
            "or .html."
        ),
    ] = None,
    as_json: JsonOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    storage: StorageOption = None,
) -> None:
    """Show a trial (architecture, costs, losses, curve), the state of a study, or an architecture file."""
    is_file = os.path.isfile(what)
    _refuse(importances, scores, plot, one=is_file or trial is not None)
    if is_file:
        from surgery.architecture import Architecture

        if trial is not None:
            from surgery.config.problems import Problem, UserError

            problem = Problem("TRIAL", trial, "has no meaning for an architecture file", "name its study")
            raise UserError("can't show that", [problem])
        _show_architecture(Architecture.from_yaml(what), as_json)
        return

    if storage is None:
        refuse_name(what, "architecture", "study", runs=runs)
    opened = open_study(what, runs, storage)
    if scores:
        _show_scores(opened, as_json, plot)
    elif trial is None:
        _show_study(opened, as_json, importances, plot, runs)
    else:
        _show_trial(opened, opened.record(trial), as_json)


def _refuse(importances: bool, scores: bool, plot: Path | None, *, one: bool) -> None:
    """Reject options that don't go together, or with a trial or a file, of which there is `one`.

    Raises:
        UserError: one of them was given.
    """
    from surgery.config.problems import Problems

    problems = Problems()
    given = (("--importances", importances or None), ("--scores", scores or None), ("--plot", plot))
    for option, value in given if one else ():
        if value is not None:
            problems.add(option, str(value), "applies to a whole study", "omit it, or the trial number")
    if importances and scores:
        problems.add("--importances", None, "can't be shown together with --scores", "omit one of them")
    problems.raise_if_any("can't show that")


def _costs(architecture: Architecture, space: SearchSpace | None = None) -> dict[str, int]:
    """Return the exact costs of an architecture, at the contexts of a study's space if it is of one."""
    from search_spaces.shown_costs import shown_costs
    from surgery.architecture.costs import cost
    from surgery.architecture.metrics import DEFAULT_CONTEXT, METRICS

    usual = [
        f"{name}@{DEFAULT_CONTEXT}" if metric.takes_context else name
        for name, metric in METRICS.items()
        if metric.analytic
    ]
    names = usual if space is None else shown_costs(space)
    return {name: cost(architecture, name) for name in names}


def _show_architecture(architecture: Architecture, as_json: bool) -> None:
    costs = _costs(architecture)
    if as_json:
        print_json({
            "architecture": architecture.line,
            "hash": architecture.hash,
            "costs": costs,
            "warnings": architecture.warnings(),
            "yaml": architecture.to_dict(),
        })  # fmt: skip
        return
    from nas_cli.render.strip import layer_strip, legend

    console.print(f"[bold]{escape(architecture.line)}[/]  {architecture.hash}", soft_wrap=True)
    console.print(layer_strip(architecture))
    console.print(legend(architecture))
    _print_metrics(costs)
    print_warnings(architecture.warnings())


def _show_study(study: Study, as_json: bool, importances: bool, plot: Path | None, runs: Path) -> None:
    from collections import Counter
    from dataclasses import asdict

    from studies.analysis.hypervolume_growth import growth
    from studies.analysis.marks import Marks
    from studies.analysis.standings import Standings
    from studies.analysis.versus_random import compare
    from studies.reporting.hypervolume_plot import plot_growth
    from studies.storage.addresses import shown
    from studies.study.settings import MILP
    from studies.study.trial_names import Names

    records, names = study.records(), Names(study.space)
    states = Counter(record.word for record in records)
    objectives, proxy = study.space.objectives, study.space.proxy
    grown = growth(records, objectives, proxy)
    rivals, marks = compare(study, records), Marks.of(study, Standings.of(study, records))
    if plot is not None:
        plot_growth(study.name, grown, plot, trained=study.space.replacements is None)
    if as_json:
        print_json({
            "study": study.name,
            "folder": str(study.folder),
            "storage": None if study.url is None else shown(study.url),
            "space": study.space.name,
            "digest": study.space.digest,
            "settings": asdict(study.settings),
            "latency": dict(study.space.times.machine) if study.space.times is not None else None,
            "states": dict(states),
            "hypervolume": grown.to_dict(),
            "versus_random": rivals.to_dict(),
            "picks": [marks.pick_to_dict(pick) for pick in marks.picks],
            **(_understood(study) if importances else {}),
            "trials": [record.to_dict() for record in records],
        })  # fmt: skip
        return
    settings = study.settings
    console.print(
        f"[bold]{study.name}[/] in {study.folder}, space {study.space.name} {study.space.digest}",
        soft_wrap=True,
    )
    if study.space.replacements is not None and study.space.model is not None:
        replacements = study.space.replacements
        console.print(
            f"  model {study.space.model.name}, {len(replacements.model.layers)} layers, "
            f"{len(replacements.parts)} parts with up to "
            f"{max(len(part.options) for part in replacements.parts)} options each",
            soft_wrap=True,
        )
    console.print(f"  text {settings.corpus}, tokenizer {settings.tokenizer}, data {settings.data_hash[:10]}")
    stopping = f"stopping {settings.stopping}, " if study.space.library is None else ""  # of designs: none
    console.print(
        f"  sampler {settings.sampler}, {stopping}seed {settings.seed}, "
        f"{settings.threads} thread{'' if settings.threads == 1 else 's'} per worker, "
        f"{settings.cpu_precision} on CPU"
    )
    if study.space.times is not None:
        from surgery.architecture.block_times import machine_text

        console.print(f"  latencies of {machine_text(study.space.times.machine)}", soft_wrap=True)
    console.print("  " + ", ".join(f"{count} {state}" for state, count in states.items()))
    for record in records:
        if record.state == "failed":
            text = f"{escape(names.design(record))}: {escape(record.reason)}"
            console.print(f"  [red]{escape(names.name(record))} failed[/] {text}", soft_wrap=True)
    print_growth(grown, "training" if study.space.library is None else "measuring")
    if settings.sampler != MILP:  # it draws nothing at random
        console.print(f"  {rivals}")
    if importances:
        _print_understood(study)
    for pick in marks.picks:
        console.print(f"  picked {escape(pick.describe(marks.since(pick)))}", soft_wrap=True)
    if front := study.front():
        where = "" if runs == DEFAULT_RUNS else f" --dir {runs}"
        console.print(
            f"  {len(front)} on the front; next: [bold]nas front {study.name}{where}[/], "
            f"[bold]nas pick {study.name}{where} -o pick.yaml[/]",
            soft_wrap=True,
        )
    if plot is not None:
        console.print(f"wrote {plot}")


def _show_scores(study: Study, as_json: bool, plot: Path | None) -> None:
    from studies.reporting.score_map import ScoreMap, map_data, plot_maps

    maps = ScoreMap.of(study)
    if plot is not None:
        plot_maps(maps, plot)
    if as_json:
        print_json(map_data(maps))
        return
    from nas_cli.render.score_map import print_score_map

    for scores in maps:
        print_score_map(scores)
    if plot is not None:
        console.print(f"wrote {plot}")


def _understand(study: Study) -> tuple[Importances, list[DeadKnob], bool]:
    """Return importances, dead hyperparameters, and whether gradients were checked."""
    from studies.analysis.dead_knobs import dead_knobs
    from studies.analysis.importances import importances
    from studies.data import TokenData

    folder = Path(study.settings.data_folder)
    # isfile is also False in an unreadable folder, such as another user's
    data = TokenData.open(folder) if os.path.isfile(folder / "meta.json") else None
    result = importances(study)
    return result, dead_knobs(study, result, data), data is not None


def _understood(study: Study) -> dict[str, Any]:
    result, knobs, _ = _understand(study)
    return {"importances": result.to_dict(), "dead_knobs": [knob.to_dict() for knob in knobs]}


def _print_understood(study: Study) -> None:
    result, knobs, gradients = _understand(study)
    print_importances(result)
    print_dead_knobs(knobs, result.trials, gradients=gradients)


def _show_trial(study: Study, record: TrialRecord, as_json: bool) -> None:
    if record.architecture is None:
        from surgery.config.problems import Problem, UserError

        raise UserError("nothing to show", [Problem("trial", record.number, "has no architecture yet")])
    from studies.analysis.marks import Marks
    from studies.analysis.standings import Standings

    architecture = record.build()
    costs = _costs(architecture, study.space)
    curve = study.curve(record.number)
    standings = Standings.of(study)
    row, marks = standings.standing(record), Marks.of(study, standings)
    explanation = _explanation(study, record)
    if as_json:
        known = {**standings.to_dict(row), **marks.to_dict(record)}
        why = {"summed_kl": None, "why": None} if explanation is None else explanation.to_dict()
        print_json({**known, "costs": costs, "curve": curve, **why, "yaml": architecture.to_dict()})
        return
    from nas_cli.render.curve import print_curve
    from nas_cli.render.strip import layer_strip, legend

    names = standings.names
    design = names.design(record)
    words = ", ".join([record.word, *(["on the front"] if row.on_front else []), *marks.words(record)])
    title = f"[bold]{escape(names.name(record))}[/] {words}: [bold]{escape(design)}[/]  {record.hash}"
    console.print(title, soft_wrap=True)
    if design != record.line:
        console.print(f"[dim]in full: {escape(record.line)}[/]", soft_wrap=True)
    console.print(layer_strip(architecture))
    console.print(legend(architecture))
    if explanation is not None and study.space.replacements is not None:
        from nas_cli.render.explanation import print_explanation
        from search_spaces.short_labels import short_labels

        print_explanation(explanation, short_labels(study.space.replacements))
    _print_metrics({**costs, **record.measured, **record.metrics})
    if rungs := record.at_rungs(study.space.proxy.rungs):
        console.print(f"  held-out loss {rungs} of its tokens")
    _print_runs(standings, row)
    if record.seconds:
        steps = "" if record.steps is None else f", {record.steps:,} steps"
        seeds = f", seeds {', '.join(map(str, record.seeds))}" if record.seeds else ""
        console.print(f"  took {duration(record.seconds)}{steps}{seeds}")
    if record.environment:
        console.print(
            "  " + ", ".join(f"{key} {value}" for key, value in record.environment.items()), soft_wrap=True
        )
    if record.reason:
        console.print(f"  [red]{escape(record.reason)}[/]", soft_wrap=True)
    if (pick := marks.pick_of(record)) is not None:
        console.print(f"  picked {escape(pick.describe(marks.since(pick)))}", soft_wrap=True)
    print_curve(curve)
    print_warnings(architecture.warnings())


def _explanation(study: Study, record: TrialRecord) -> Explanation | None:
    """Return why a design of a pretrained model was chosen; None for others, and before there are scores."""
    if study.space.replacements is None:
        return None
    from studies.reporting.explanation import Explainer
    from studies.reporting.score_map import scores_of

    scores = scores_of(study)
    if scores is None or not study.space.costs_known:
        return None
    return Explainer(study.space, scores).explain(record)


def _print_metrics(values: dict[str, Any]) -> None:
    from rich.table import Table

    from surgery.architecture.metrics import parse_metric

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)  # the name, to be typed
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in values.items():
        metric, context = parse_metric(name)
        text = metric.format(value)
        text += "" if metric.unit == "bytes" else f" {metric.unit}"
        table.add_row(f"  {name}", text, f"[dim]{_at(metric.summary, context)}[/]")
    console.print(table)


def _at(summary: str, context: int | None) -> str:
    """Return what a metric is, with its context in place of the letter C."""
    return summary if context is None else re.sub(r"\bC\b", f"{context:,}", summary)


def _print_runs(standings: Standings, row: Standing) -> None:
    """Print every run of a repeated architecture, and the prediction interval for a new seed."""
    for column, objective in enumerate(standings.objectives):
        half, fresh, values = row.half[column], row.fresh[column], row.record.values
        if half is None or fresh is None or values is None:
            continue
        shown = objective.metric.format
        runs = ", ".join(f"{shown(run.values[column])} (#{run.trial})" for run in row.record.runs)
        console.print(
            f"  {objective.name}: {runs}; mean {shown(values[column])} ±{shown(half)}, a new seed within "
            f"±{shown(fresh)} of it (90%)",
            soft_wrap=True,
        )
    if row.confirmed is not None:
        console.print(f"  confirmed: {row.confirmed.describe(standings.objectives)}", soft_wrap=True)
    if row.record.failed_runs:
        console.print(f"  [red]{row.record.failed_runs} repeats failed[/]")
