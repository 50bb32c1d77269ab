"""One page about a study: its question, front, baselines, audits, curves, costs, versions and commands."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from typing import Any

from studies.analysis.marks import Marks
from studies.analysis.pick import knee
from studies.analysis.standings import Standings
from studies.reporting.dashboard_graphs import figures
from studies.reporting.figure import Figure, HeatMap
from studies.reporting.folded_yaml import architecture_yaml, folded
from studies.reporting.markdown import markdown_table
from studies.reporting.picked import FOLDED, picked_section
from studies.reporting.picture import picture
from studies.reporting.study_note import findings, front_table
from studies.reporting.themed_svg import STYLE, themed_svg
from studies.study import Study
from studies.study.settings import MILP
from studies.study.trial_record import DONE, TrialRecord

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
{style}
body {{ max-width: 72rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
         vertical-align: top; }}
pre {{ background: var(--box); padding: .8rem; overflow-x: auto; }}
code {{ font-size: .9em; overflow-wrap: anywhere; }}
a {{ color: var(--link); }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr));
            gap: 1.5rem; }}
figure {{ margin: 0; overflow-x: auto; }}
figure.wide {{ grid-column: 1 / -1; }}
figcaption {{ font-weight: 600; margin-bottom: .3rem; }}
figure svg {{ display: block; width: 100%; height: auto; font-family: "DejaVu Sans", Verdana, sans-serif; }}
nav a {{ margin-right: 1rem; white-space: nowrap; }}
@media print {{ nav {{ display: none; }} figure, table {{ break-inside: avoid; }} }}
</style></head><body>
{body}
</body></html>
"""
_WIDTH, _HEIGHT = 5.2, 3.6  # inches of a plot, so that letters are as large as the page's
_PIXELS = 100  # of an inch on the page
_WIDE = 620  # pixels from which on a figure has a row of its own
_NARROWEST = 640  # pixels to which a figure is reduced before it scrolls
# Headings of the findings that pictures belong to, and of pictures that have a section of their own.
_UNDER = {"front": "Front", "layers": "Front", "baselines": "Baselines", "importances": "What matters"}
_TITLES = {"curves": "Loss curves", "hypervolume": "Growth of the front", "scores": "Scores"}


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
    texts = [
        *front_table(study, standings, marks),
        *picked_section(study, standings, marks, with_yaml=True),
        *(findings(study, records, standings) if any(record.state == DONE for record in records) else ()),
    ]
    drawn: dict[str, list[str]] = {}
    for name, figure in figures(study):
        kind = name.partition("-")[0]
        drawn.setdefault(_UNDER.get(kind, _TITLES.get(kind, "")), []).append(_figure(figure))
    for heading, text in _sections(texts):
        parts += [_html(text), *_grid(drawn.pop(heading, []))]
    for heading, svgs in drawn.items():
        parts += [f"<h3>{heading}</h3>", *_grid(svgs)]
    if audits:
        parts.append(_html("\n\n".join(["### Audits", *audits])))
    parts.append(_html("\n\n".join(_end(study, standings))))
    return _PAGE.format(style=STYLE, title=html.escape(study.name), body=_with_links("\n".join(parts)))


def _with_links(body: str) -> str:
    """Return the page's body with links to its sections below the title."""
    names = re.findall(r"<h3>(.*?)</h3>", body)
    links = "\n".join(f'<a href="#section-{number}">{name}</a>' for number, name in enumerate(names))
    numbers = iter(range(len(names)))
    body = re.sub("<h3>", lambda _: f'<a id="section-{next(numbers)}"></a><h3>', body)
    return body.replace("</h1>", f"</h1>\n<nav>{links}</nav>", 1)


def _sections(paragraphs: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the heading of each section, and its text."""
    sections: list[tuple[str, list[str]]] = []
    for paragraph in paragraphs:
        if paragraph.startswith("### "):
            sections.append((paragraph.removeprefix("### "), []))
        sections[-1][1].append(paragraph)
    for heading, texts in sections:
        yield heading, "\n\n".join(texts)


def _grid(svgs: Sequence[str]) -> list[str]:
    return [f'<div class="figures">{"".join(svgs)}</div>'] if svgs else []


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
    """Return a figure as an element of the page."""
    if not any(isinstance(panel, HeatMap) for panel in figure.panels):
        figure = replace(figure, width=max(figure.width, _WIDTH), height=max(figure.height, _HEIGHT))
    svg = themed_svg(picture(figure, title=False, clear=True))
    label = html.escape(figure.title, quote=True)
    width = round(_PIXELS * figure.width * min(figure.columns, len(figure.panels)))
    style = f"max-width: {width}px; min-width: {min(width, _NARROWEST, round(0.75 * width))}px"
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}" style="{style}"', 1)
    kind = ' class="wide"' if width > _WIDE else ""
    return f"<figure{kind}><figcaption>{label}</figcaption>{svg}</figure>"


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
