"""One page about a study: its question, front, baselines, audits, curves, costs, versions and commands."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

from studies.analysis.marks import Marks
from studies.analysis.pick import knee
from studies.analysis.standings import Standings
from studies.reporting.dashboard_graphs import figures
from studies.reporting.figure import Figure
from studies.reporting.folded_yaml import architecture_yaml, folded
from studies.reporting.markdown import markdown_table
from studies.reporting.picked import FOLDED, picked_section
from studies.reporting.picture import as_svg, picture
from studies.reporting.study_note import findings, front_table
from studies.study import Study
from studies.study.settings import MILP
from studies.study.trial_record import DONE, TrialRecord

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ max-width: 72rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif;
       color: #1f2328; background: #fff; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #d0d7de; text-align: left; vertical-align: top; }}
pre {{ background: #f6f8fa; padding: .8rem; overflow-x: auto; }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }}
figure {{ margin: 0; background: #fff; max-width: 46rem; }}
figure svg {{ width: 100%; height: auto; max-height: 90vh; font-family: "DejaVu Sans", Verdana, sans-serif; }}
nav a {{ margin-right: 1rem; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #0d1117; color: #e6edf3; }} pre {{ background: #161b22; }} a {{ color: #79c0ff; }}
  th, td {{ border-color: #30363d; }}
}}
@media print {{ nav {{ display: none; }} figure, table {{ break-inside: avoid; }} }}
</style></head><body>
{body}
</body></html>
"""
_TITLES = {
    "front": "Front", "layers": "Layers of the front", "curves": "Loss curves",
    "hypervolume": "Growth of the front", "importances": "Fields that matter", "scores": "Scores",
}  # fmt: skip


def report_page(study: Study, audits: Sequence[str] = ()) -> str:
    """Return the page as HTML without other files.

    Args:
        study: finished or running.
        audits: a paragraph on each audit of the study.
    """
    records = study.records()
    parts = [_html("\n\n".join(_beginning(study, records)))]
    standings = Standings.of(study, records)
    marks = Marks.of(study, standings)
    parts.append(_html("\n\n".join([
        *front_table(study, standings, marks),
        *picked_section(study, standings, marks, with_yaml=True),
        *(findings(study, records, standings) if any(record.state == DONE for record in records) else ()),
    ])))  # fmt: skip
    drawn: dict[str, list[str]] = {}
    for name, figure in figures(study):
        drawn.setdefault(name.partition("-")[0], []).append(_figure(figure))
    for name, svgs in drawn.items():
        parts.append(f'<h3>{_TITLES[name]}</h3>\n<div class="figures">{"".join(svgs)}</div>')
    if audits:
        parts.append(_html("\n\n".join(["### Audits", *audits])))
    parts.append(_html("\n\n".join(_end(study, standings))))
    return _PAGE.format(title=html.escape(study.name), body="\n".join(parts))


def _beginning(study: Study, records: Sequence[TrialRecord]) -> Iterator[str]:
    space, settings = study.space, study.settings
    goals = ", ".join(f"{item.name} ({item.direction})" for item in space.objectives)
    yield f"# {study.name}"
    if space.model is None:
        proxy = space.proxy
        yield (
            f"Which architectures of the space *{space.name}* ({space.size()}) are best in {goals}? Each was "
            f"trained from scratch on {proxy.tokens:,} tokens of `{settings.corpus}` in sequences of "
            f"{proxy.seq_len}."
        )
    else:
        assert space.library is not None
        yield (
            f"Which replacements of parts of `{space.model.name}` ({space.size()}) are best in {goals}? Each "
            f"design was put together from parts that were fitted to {space.library.fit_tokens:,} tokens of "
            f"`{settings.corpus}`, and measured on {space.library.eval_tokens:,} held-out tokens."
        )
    states = Counter(record.word for record in records if record.repeat_of is None)
    tokens = sum(record.tokens or 0 for record in records)
    seconds = sum(record.seconds for record in records)
    rows = [
        ["trials", ", ".join(f"{count} {state}" for state, count in states.items()) or "none"],
        ["time of all trials", f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"],
        *([[f"tokens {space.done_word} on", f"{tokens:,}"]] if tokens else []),
        ["sampler, seed", f"{settings.sampler}, {settings.seed}"],
        *([["early stopping", settings.stopping]] if settings.sampler != MILP else []),
        ["devices", _environments(records, "device")],
        ["versions", f"nas {version('nas-cli')}, torch {_environments(records, 'torch')}"],
        ["last result", _last(records)],
    ]
    yield markdown_table(["", ""], rows)


def _end(study: Study, standings: Standings) -> Iterator[str]:
    record = knee(standings)
    if record is not None:
        yield f"### The knee of the front: {standings.names.name(record)}"
        yield f"```yaml\n{architecture_yaml(record.build())}\n```"
    yield "### Commands"
    model = None if study.space.model is None else study.space.model.name
    option = "" if model is None else f" --model {model}"
    commands = [
        f"nas search space.yaml{option} --name {study.name} --data {study.settings.corpus} "
        f"--seed {study.settings.seed}",
        f"nas front {study.name}",
        f"nas pick {study.name} -o pick.yaml",
        "nas train pick.yaml -o out"
        if model is None
        else f"nas apply pick.yaml {model} -o out --heal TOKENS --control",
    ]
    yield "```bash\n" + "\n".join(commands) + "\n```"
    yield "### Space"
    yield f"```yaml\n{folded(study.space.text.strip())}\n```"


def _figure(figure: Figure) -> str:
    """Return a figure as SVG, with letters as text: as outlines they would be most of the page."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):
        svg = as_svg(picture(figure))
    label = html.escape(figure.title, quote=True)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return f"<figure>{svg}</figure>"


def _html(text: str) -> str:
    """Return Markdown as HTML, in which no HTML of the text is a tag; FOLDED blocks are closed at first."""
    from markdown_it import MarkdownIt

    def fence(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
        block: str = renderer.fence(tokens, index, options, env)
        if tokens[index].info != FOLDED:
            return block
        return f"<details><summary>its YAML</summary>\n{block}</details>\n"

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("fence", fence)
    rendered: str = markdown.render(text)
    return rendered


def _environments(records: Sequence[TrialRecord], key: str) -> str:
    """Return everything that trials recorded of their environment under a name."""
    known = {value for record in records if (value := record.environment.get(key))}
    return ", ".join(sorted(known)) or "unknown"


def _last(records: Sequence[TrialRecord]) -> str:
    ended: list[datetime] = [record.ended for record in records if record.ended is not None]
    return max(ended).strftime("%Y-%m-%d %H:%M") if ended else "none"
