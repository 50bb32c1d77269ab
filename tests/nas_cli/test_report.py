"""`nas report`: a page that says what the study found, and needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from typer.testing import Result

from studies.audit.plan import open_audit
from studies.reporting.report_page import _html
from studies.study import Study
from studies.study.trial_names import Names
from tests.scored_study import make_study

Nas = Callable[..., Result]
EMPTY = {"meta", "path", "use", "image", "br", "hr", "rect", "circle", "line"}


class Tags(HTMLParser):
    """Checks that tags are closed in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag


def test_a_study_of_a_pretrained_model(nas: Nas, tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs")
    page = tmp_path / "page.html"
    result = nas("report", study.name, "--dir", study.folder.parent, "-o", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert all(link.startswith(("#", "data:")) for link in tags.links), "it needs no other file"
    assert len(text) < 1_000_000
    for heading in (
        "Front",
        "Baselines",
        "What matters",
        "Growth of the front",
        "Scores",
        "Commands",
        "Space",
    ):
        assert len(re.findall(rf"<h3>{heading}</h3>", text)) == 1, heading
    assert "prefers-color-scheme: dark" in text
    assert re.search(r'<nav>.*<a href="#section-2">What matters</a>.*</nav>', text, re.DOTALL)
    assert '<a id="section-2"></a><h3>What matters</h3>' in text
    assert "Letters and marks: <code>F</code> full attention" in text
    for record in study.front():
        assert Names(study.space).name(record) in text
    assert study.space.model is not None
    assert f"--model {study.space.model.name}" in text
    # written again over its own page, and not over another's
    assert nas("report", study.name, "--dir", study.folder.parent, "-o", page).exit_code == 0
    page.write_text("mine")
    result = nas("report", study.name, "--dir", study.folder.parent, "-o", page)
    assert "nas did not write it" in str(result.exception)
    result = nas("report", study.name, "--dir", study.folder.parent, "-o", tmp_path / "page.pdf")
    assert "must end in .html" in str(result.exception)


def test_a_study_from_scratch_with_its_audit(nas: Nas, study_folder: Path, tmp_path: Path) -> None:
    study = Study.open(str(shutil.copytree(study_folder, tmp_path / study_folder.name)))
    audit = open_audit(study, 4, 6)
    for index, member in enumerate(audit.members):
        result = {"val_loss": 4.0 + index / 10, "epochs": 1.0, "environment": {"device": "a device"}}
        (audit.folder / f"{member.hash}-0.json").write_text(json.dumps(result))
    result = nas("report", study.name, "--dir", study.folder.parent)
    assert result.exit_code == 0, result.output
    text = (study.folder / "report.html").read_text()
    for words in ("trained from scratch on", "Audits", "Trained 4 times as long, ", "nas train pick.yaml"):
        assert words in text, words


def test_html_of_the_space_is_no_tag() -> None:
    text = _html("a <script>alert(1)</script>\n\n```yaml\nname: <b>\n```")
    assert "<script>" not in text
    assert "<b>" not in text
