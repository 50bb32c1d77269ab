from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

import pytest

from studies.data import open_corpus, prepare
from studies.data.builtin.pages import read_page
from studies.data.builtin.prose import clean, is_prose, trim_lead_in


def test_it_is_clean_english_prose() -> None:
    texts = list(open_corpus("builtin").texts())
    size = sum(len(text.encode()) for text in texts)
    assert 3_000_000 < size < 6_000_000
    assert len(texts) > 1_500
    paragraphs = [line for text in texts for line in text.split("\n")]
    body = [line for line in paragraphs if len(line) >= 80]
    assert len(set(body)) >= 0.999 * len(body)
    assert not [line for line in paragraphs if re.search(r"<[a-z]+ [a-z]+=|¶|\bbpo-\d|  |:\w+:`", line)]
    letters = sum(character.isalpha() or character == " " for text in texts for character in text)
    assert letters > 0.94 * sum(map(len, texts))
    common = sum(len(re.findall(r"\b(?:the|of|and|to|is|in)\b", text)) for text in texts)
    assert common > 0.12 * sum(len(text.split()) for text in texts)


def test_the_licence_ships_with_it() -> None:
    folder = importlib.resources.files("studies.data.builtin")
    assert "PSF LICENSE AGREEMENT FOR PYTHON 3.11.2" in (folder / "LICENSE.txt").read_text()
    assert "Changes made" in (folder / "ATTRIBUTION.md").read_text()
    assert (folder / "python_docs.jsonl.gz").is_file()


def test_preparing_it_holds_out_enough(tmp_path: Path) -> None:
    data = prepare("builtin", "bpe:4096", tmp_path / "data")
    assert data.vocab_size == 4096
    assert len(data.tokens("val")) >= 30_000
    assert len(data.tokens("train")) > 900_000
    assert "PSF" in data.meta["corpus"]["licence"]


PAGE = """
<nav><p>Contents</p></nav>
<section id="a"><h2>The <code>len</code> function<a class="headerlink" href="#a">¶</a></h2>
<p>Call <code class="sig sig-inline highlight"><span class="pre">len()</span></code> for the
number of <em>items</em>.</p>
<div class="highlight"><pre>len([1, 2])</pre></div>
<dl><dt class="sig">len(s)</dt><dd><p>Return the length<br>of it.</p></dd></dl>
<table><tr><td><p>cell</p></td></tr></table>
<ul><li><p>An item.</p></li></ul>
<p><span class="versionmodified">Changed in version 3.2: </span>Now faster.</p></section>
"""


def test_pages_become_blocks() -> None:
    blocks = [(block.kind, " ".join(block.text.split())) for block in read_page(PAGE) if block.kind != "code"]
    assert blocks == [
        ("heading", "The len function"),
        ("text", "Call len() for the number of items."),
        ("text", "Return the length of it."),
        ("item", "An item."),
        ("text", "Now faster."),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("It\u2019s  \u201cnew\u201d\nhere. (Contributed by A B in bpo-123.)", 'It\'s "new" here.'),
        ("Faster now (bpo-99). Contributed by J. Doe.", "Faster now."),
        ("Set __main__ and (see PEP 8) go.", "Set __main__ and (see PEP 8) go."),
        ("Done _after_ that ( at once ) .", "Done after that (at once)."),
    ],
)
def test_cleaning(before: str, after: str) -> None:
    assert clean(before) == after


def test_what_counts_as_prose() -> None:
    prose = "This function returns the number of items in a list, and it raises an error if there are none."
    assert is_prose(prose)
    assert not is_prose(
        "x = {1: 2}; y = [a_b for a_b in c_d]; call_it(x, y, **{'a': 1}) == z_z; assert it_is_so."
    )
    assert not is_prose("Too short.")
    assert trim_lead_in(f"{prose} For example:") == prose
    assert trim_lead_in("For example:") == ""
