"""The note of a study for Optuna Dashboard: its front, baselines, paused trials, constraints and space."""

from __future__ import annotations

from collections.abc import Iterator

from search_spaces.objectives import Objective
from studies.analysis.marks import Marks
from studies.analysis.standings import Standing, Standings
from studies.analysis.versus_baselines import VersusBaselines
from studies.reporting.folded_yaml import folded
from studies.reporting.key_of_letters import key_of_letters, key_of_names
from studies.reporting.markdown import markdown_table
from studies.reporting.picked import picked_section
from studies.reporting.score_map import ScoreMap, scores_of
from studies.reporting.what_matters import what_matters
from studies.study import Study
from studies.study.trial_names import Names
from studies.study.trial_record import DONE, FAILED, PAUSED, RUNNING, TrialRecord

MOST_PAUSED = 20  # paused trials listed at the top


def study_note(study: Study) -> str:
    """Return the Markdown note of the study."""
    records = study.records()
    standings = Standings.of(study, records)
    settings = study.settings
    scratch = study.space.replacements is None
    stopping = f"stopping {settings.stopping}, " if scratch else ""  # designs of a model are not stopped
    done = sum(record.state == DONE for record in records)
    what = f"{study.space.done_word} {'architectures' if scratch else 'designs'}"
    marks = Marks.of(study, standings)
    parts = [
        f"## {study.name}",
        f"Text {settings.corpus}, tokenizer {settings.tokenizer}, sampler {settings.sampler}, "
        f"{stopping}seed {settings.seed}. {len(standings.front)} of {done} {what} "
        "are on the front.",
        *_paused(records, standings.names),
        *front_table(study, standings, marks),
        *picked_section(study, standings, marks, with_yaml=False),
        *findings(study, records, standings),
        *_scores(study),
        "### How to read this page",
        "In the pictures each column is a layer. "
        f"Trials shown as pruned were not {study.space.done_word}: they break a constraint or duplicate "
        "another one. Importances are in the graph *which fields matter*: those that "
        "Optuna computes by itself give costs to fields that can't change them.",
        f"```yaml\n{folded(study.space.text.strip())}\n```",
    ]
    return "\n\n".join(parts)


def _paused(records: list[TrialRecord], names: Names) -> Iterator[str]:
    """Yield which trials are paused, for pages that show them as running; nothing where none is.

    Of Optuna's states only RUNNING can hold them: finished trials can't be changed any more, and those that
    wait are started by the next request for a trial.
    """
    paused = [record for record in records if record.state == PAUSED]
    if not paused:
        return
    shown = ", ".join(f"{names.name(record)} (rung {len(record.rungs)})" for record in paused[:MOST_PAUSED])
    more = f" and {len(paused) - MOST_PAUSED} more" if len(paused) > MOST_PAUSED else ""
    yield (
        f"**Paused, not running: {shown}{more}.** Optuna has no such state: its own dashboard shows them as "
        "running, `nas dashboard` as waiting. They are resumed if they are promising."
    )


def findings(study: Study, records: list[TrialRecord], standings: Standings) -> Iterator[str]:
    """Yield paragraphs and tables: baselines, what matters, constraints, what has not finished."""
    yield from _baselines(study, records, standings)
    yield from what_matters(study, records, [row.record for row in standings.front])
    yield from _constraints(study, records, standings)
    yield from _states(records, standings.names)


def front_table(study: Study, standings: Standings, marks: Marks) -> Iterator[str]:
    """Yield the table of the front, in which the knee and the picks are marked; nothing without a front."""
    if not standings.front:
        return
    head = ["trial", "architecture", *(_head(item) for item in standings.objectives)]
    if standings.noise is not None:
        head.append("P(front)")
    rows = []
    for row in standings.front:
        record = row.record
        words = marks.words(record)
        name = f"**{standings.names.name(record)}**" + (f" ({', '.join(words)})" if words else "")
        cells = [name, f"`{standings.names.design(record)}`", *_values(row, standings.objectives)]
        if standings.noise is not None:
            cells.append("" if row.p_front is None else f"{row.p_front:.2f}")
        rows.append(cells)
    yield "### Front"
    yield markdown_table(head, rows)
    confirmed = [
        f"{standings.names.name(row.record)}: {row.confirmed.describe(standings.objectives)}"
        for row in standings.front
        if row.confirmed is not None
    ]
    if confirmed:
        yield f"Confirmed (90 % intervals): {'; '.join(confirmed)}."
    elif standings.noise is not None:
        command = f"`nas refine {study.name}`"
        yield f"± is too good for the best, which was chosen for its result: {command} confirms it."
    yield f"`nas pick {study.name}` takes the knee, `nas pick {study.name} --trial N` another one."
    yield _key(standings)


def _head(objective: Objective) -> str:
    unit = "" if objective.metric.unit == "bytes" else f" ({objective.metric.unit})"
    return f"{objective.name}{unit}"


def _values(row: Standing, objectives: tuple[Objective, ...]) -> Iterator[str]:
    for item, value, half in zip(objectives, row.record.values or (), row.half, strict=True):
        yield item.metric.format(value) + ("" if half is None else f" ±{item.metric.format(half)}")


def _states(records: list[TrialRecord], names: Names) -> Iterator[str]:
    lines = []
    for state, word in (
        (RUNNING, "Running"),
        (PAUSED, "Paused at a rung, resumed if promising"),
        (FAILED, "Failed"),
    ):
        chosen = [record for record in records if record.state == state]
        if chosen:
            texts = [
                f"{names.name(item)}{f' (rung {len(item.rungs)})' if state == PAUSED else ''}"
                for item in chosen
            ]
            lines.append(f"- {word}: {', '.join(texts)}")
    if lines:
        yield "### Trials that have not finished"
        yield "\n".join(lines)


def _baselines(study: Study, records: list[TrialRecord], standings: Standings) -> Iterator[str]:
    comparison = VersusBaselines(records, standings, study.space)
    if not comparison.duels:
        return
    form, name = comparison.objective.metric.format, comparison.objective.name
    names = standings.names
    rows = []
    for duel in comparison.duels:
        cells = [names.name(duel.baseline), form(comparison.value(duel.baseline))]
        if duel.rival is None or duel.ahead is None:
            cells += ["", "", ""]
        else:
            cells += [
                names.name(duel.rival),
                form(comparison.value(duel.rival)),
                "" if duel.at_least is None else form(duel.at_least),
            ]
        rows.append([*cells, f"**{duel.verdict}**"])
    yield "### Baselines"
    yield comparison.summary(f"`nas refine {study.name}`")
    if not comparison.alone:
        yield markdown_table(
            ["baseline", name, "best rival at no higher cost", name, "better by at least", "verdict"], rows
        )


def _constraints(study: Study, records: list[TrialRecord], standings: Standings) -> Iterator[str]:
    if not study.space.constraints:
        return
    yield "### Constraints"
    records = [record for record in records if record.repeat_of is None]
    broken = sum(not record.feasible for record in records)
    texts = ", ".join(f"`{item}`" for item in study.space.constraints)
    yield f"{texts}. {broken} of {len(records)} trials break them; these are never on the front."
    best = []
    for column, item in enumerate(standings.objectives):
        sign = 1 if item.direction == "min" else -1
        rows = [(sign * row.record.values[column], row.record) for row in standings.rows if row.record.values]
        if rows:
            value, record = min(rows, key=lambda pair: pair[0])
            best.append(f"{item.name} {item.metric.format(sign * value)} ({standings.names.name(record)})")
    if best:
        yield f"Best of those that meet them: {', '.join(best)}."


def _key(standings: Standings) -> str:
    """Return what letters, marks and names of the designs on the front mean."""
    records = [row.record for row in standings.front]
    names = key_of_names([standings.names.design(record) for record in records])
    return f"{key_of_letters(*(record.build() for record in records))} {names}".strip()


def _scores(study: Study) -> list[str]:
    """Return a paragraph and a table of each kind of scores of replacements, if the study has them."""
    if scores_of(study) is None:
        return []
    lines = ["### Scores"]
    for scores in ScoreMap.of(study):
        lines += [f"Scores of replacements in `{scores.model}`: {scores.legend}.", scores.markdown()]
    return lines
