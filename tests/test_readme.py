"""Names in the README and docs/ exist: commands, options, files, headings, fields, defaults, make targets.

A page is a promise: `bash` blocks parse here, `console` blocks are run by `test_guides.py`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import typer
import yaml

from search_spaces import BASELINES, parse_space
from search_spaces.fields import fields
from search_spaces.proxy import Proxy
from surgery.architecture import Architecture
from surgery.architecture.metrics import METRICS
from surgery.config.options import REQUIRED
from surgery.mixers import MIXERS
from surgery.projections import PROJECTION_OPERATORS
from tests.pages import (
    PAGES,
    README,
    ROOT,
    anchors,
    blocks,
    commands,
    headings,
    links,
    name_of,
    resolve,
    runnable,
    text_of,
)

DOCS = ROOT / "docs"
each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.fixture(scope="module")
def command(cli: typer.Typer) -> Any:
    return typer.main.get_command(cli)


def leaves(command: Any, name: str = "nas") -> dict[str, Any]:
    """All commands, by their full names."""
    if not hasattr(command, "commands"):
        return {name: command}
    result: dict[str, Any] = {}
    for word, inner in command.commands.items():
        result |= leaves(inner, f"{name} {word}")
    return result


def test_the_readme_is_one_page() -> None:
    assert len(text_of(README).splitlines()) <= 150


def test_there_are_commands() -> None:
    assert len(set(commands(README))) >= 6
    assert len({line for page in PAGES for line in commands(page)}) > 50
    assert sum(len(runnable(page)) for page in PAGES) > 20


@each_page
def test_every_command_and_option_exists(page: Path, command: Any) -> None:
    for line in commands(page):
        result, words = resolve(line, command)
        known = {
            option for parameter in result.params for option in parameter.opts + parameter.secondary_opts
        }
        given = {word for word in words if re.match(r"-[a-z-]", word)}
        assert given <= known | {"--help", "-h"}, line


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} in {name_of(page)}"
        assert not there.relative_to(ROOT).as_posix().startswith("docs/..")
        if anchor:
            assert anchor in anchors(there), f"{target} in {name_of(page)}"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=name_of)
def test_a_page_of_docs_links_within_docs_and_stands_in_the_navigation(page: Path) -> None:
    for target in links(page):
        assert (page.parent / target.partition("#")[0]).resolve().is_relative_to(DOCS), target
    assert page.relative_to(DOCS).as_posix() in text_of(ROOT / "mkdocs.yml"), "add it to nav in mkdocs.yml"


@each_page
def test_yaml_is_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        if block.text.startswith("name:"):
            assert parse_space(block.text, name_of(page)).warnings() == []
        elif block.text.startswith("backbone:"):
            assert Architecture.from_dict(yaml.safe_load(block.text)).warnings() == []
        else:
            assert isinstance(yaml.safe_load(block.text), dict)


def test_a_space_and_an_architecture_are_shown() -> None:
    first = [block.text.split(":")[0] for page in PAGES for block in blocks(page, "yaml")]
    assert {"name", "backbone", "projections", "proxy"} <= set(first)


def test_the_targets_of_make_exist() -> None:
    makefile = text_of(ROOT / "Makefile")
    targets = {target for page in PAGES for target in re.findall(r"`?\bmake ([a-z-]+)`", text_of(page))}
    assert {"demo", "test", "docs"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_citations_in_the_code_are_headings_of_the_papers_page() -> None:
    known = headings(DOCS / "papers.md")
    cited = 0
    for room in ("surgery", "search_spaces", "studies", "nas_cli", "tests"):
        for path in (ROOT / room).rglob("*.py"):
            if path == Path(__file__):
                continue
            for text in re.findall(r"docs/papers\.md,\s+([^).\n]+)", text_of(path)):
                assert all(part in known for part in re.split(r" and (?=[A-Z])", text)), f"{path}: {text}"
                cited += 1
            assert "papers.md" not in re.sub(r"docs/papers\.md, ", "", text_of(path)), path
    assert cited >= 10


def test_every_metric_is_explained() -> None:
    page = text_of(DOCS / "reference" / "metrics.md")
    for metric in METRICS.values():
        assert re.search(rf"`{re.escape(metric.name)}(@[TC])?`.*\| {metric.unit} \|", page), metric.name


def _row(name: str, default: object) -> str:
    if default is REQUIRED:
        return rf"\| `{name}` \| \(required\) \|"
    shown = str(default).lower() if isinstance(default, bool) else default
    text = f"{shown:g}" if isinstance(shown, float) else str(shown)
    return rf"\| `{name}` \| {re.escape(text)} \|"


@pytest.mark.parametrize(
    "spec", [*MIXERS.values(), *PROJECTION_OPERATORS.values()], ids=lambda spec: spec.name
)
def test_every_option_of_a_mixer_or_operator_stands_with_its_default(spec: Any) -> None:
    page = text_of(DOCS / "reference" / "mixers.md")
    assert f"`{getattr(spec, 'word', spec.name)}`" in page
    for name, option in spec.options.items():
        assert re.search(_row(name, option.default), page), name


def test_every_baseline_is_explained() -> None:
    page = text_of(DOCS / "reference" / "mixers.md")
    assert [name for name in BASELINES if f"| `{name}` |" not in page] == []


def test_every_field_of_a_space_is_explained() -> None:
    page = text_of(DOCS / "reference" / "files.md")
    operators = "|".join(name for name, spec in PROJECTION_OPERATORS.items() if spec.options)
    plain = re.compile(
        rf"backbone\.\w+|mixers\.(?!ratio|placement).+|({operators})\.(?!projections|layers).+"
    )
    names = [name for name in fields() if not plain.fullmatch(name)]
    assert [name for name in (*names, *Proxy().__dataclass_fields__) if f"`{name}`" not in page] == []


def test_every_command_is_listed_and_its_options_get_into_the_site(command: Any) -> None:
    hooks = run_path(str(DOCS / "hooks.py"))
    page = text_of(DOCS / "reference" / "cli.md")
    assert page.count(hooks["MARK"]) == 1

    class Page:
        class file:
            src_uri = "reference/cli.md"

    site = hooks["on_page_markdown"](page, Page)
    for name, leaf in leaves(command).items():
        assert all(f"`{word}" in page or f" {word}" in page for word in name.split()), name
        section = site.split(f"\n### {name}\n")[1].split("\n### ")[0]
        for parameter in leaf.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert f"`{parameter.opts[0]}`" in section


@pytest.mark.parametrize("page", sorted((DOCS / "results").glob("*.md")), ids=name_of)
def test_a_result_has_its_day(page: Path) -> None:
    intro, *sections = re.split(r"^## ", text_of(page), flags=re.MULTILINE)
    for section in sections:
        shown = "\n|" in section or "\n```\n" in section
        assert not shown or re.search(r"20\d\d-\d\d-\d\d", intro + section), section.splitlines()[0]


def test_versions_agree() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    assert yaml.safe_load(text_of(ROOT / "CITATION.cff"))["version"] == project["version"]
    assert f"## {project['version']}" in text_of(ROOT / "CHANGELOG.md")
    hooks = yaml.safe_load(text_of(ROOT / ".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff", "ruff-format", "mypy"}
