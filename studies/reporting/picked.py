"""Section on what was picked in a study: why, its metrics, its YAML, and the commands that use it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from studies.analysis.marks import Marks
from studies.analysis.standings import Standings
from studies.reporting.folded_yaml import architecture_yaml
from studies.reporting.markdown import markdown_table
from studies.study import Study
from studies.study.picks import Pick, next_command
from studies.study.trial_record import DONE
from surgery.architecture.metrics import parse_metric

FOLDED = "yaml folded"  # language of a block that a page shows closed, until it is clicked


def picked_section(study: Study, standings: Standings, marks: Marks, *, with_yaml: bool) -> Iterator[str]:
    """Yield paragraphs in Markdown on every pick, the newest first; none where nothing was picked."""
    if not marks.picks:
        return
    yield "### Picked"
    for pick in marks.picks:
        record = study.record(pick.trial)
        state = "" if record.state == DONE else f" ({record.word})"
        yield f"**{standings.names.name(record)}**{state} `{standings.names.design(record)}`"
        yield why_picked(pick, marks.since(pick))
        yield _metrics(study, standings, pick)
        if with_yaml:
            yield f"```{FOLDED}\n{architecture_yaml(record.build())}\n```"
        yield commands(study, pick)


def why_picked(pick: Pick, since: str = "") -> str:
    """Return a paragraph: why it was picked, when, and where it was written.

    Args:
        pick: the pick.
        since: what it was, and what has its place now (`Marks.since`); empty if nothing has.
    """
    limits = f", within {', '.join(f'`{limit}`' for limit in pick.limits)}" if pick.limits else ""
    where = "to standard output" if pick.output is None else f"into `{pick.output}` of {pick.machine}"
    design = " as a design without a backbone" if pick.portable else ""
    text = f"Why: {pick.reason}{limits}. Picked on {pick.day} and written {where}{design}."
    return f"**Overtaken: {since}.** {text}" if since else text


def commands(study: Study, pick: Pick) -> str:
    """Return the block of commands that apply or train a pick."""
    model = None if study.space.model is None else study.space.model.name
    lines = []
    if pick.output is None:
        portable = " --portable" if pick.portable else ""
        lines.append(f"nas pick {shlex.quote(study.name)} --trial {pick.trial}{portable} -o pick.yaml")
    lines.append(next_command(pick.output or "pick.yaml", model, portable=pick.portable))
    return "```bash\n" + "\n".join(lines) + "\n```"


def _metrics(study: Study, standings: Standings, pick: Pick) -> str:
    """Return the table of its metrics: objectives with their intervals first, then what else is known."""
    record = study.record(pick.trial)
    halves = dict(
        zip((item.name for item in standings.objectives), standings.standing(record).half, strict=True)
    )
    known = record.measured | record.metrics
    for item in standings.objectives:
        if item.name not in known and item.metric.analytic:
            known[item.name] = study.space.cost(record.build(), item.name)
    names = [*(name for name in halves if name in known), *(name for name in known if name not in halves)]
    rows = []
    for name in names:
        metric, half = parse_metric(name)[0], halves.get(name)
        spread = "" if half is None else f" ±{metric.format(half)}"
        unit = "" if metric.unit == "bytes" else f" {metric.unit}"
        rows.append([name, f"{metric.format(known[name])}{spread}{unit}"])
    if record.values is None and (rungs := record.at_rungs(study.space.proxy.rungs)):
        rows.append(["held-out loss", f"{rungs} of its tokens"])
    if (confirmed := standings.standing(record).confirmed) is not None:
        rows.append(["confirmed", confirmed.describe(standings.objectives)])
    return markdown_table(["metric", "value"], rows)
