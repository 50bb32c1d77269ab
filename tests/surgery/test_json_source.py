"""JSON of any file: read as `json` reads it, or a ValueError."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.config.json_source import MAX_DEPTH, parse_json, parse_object, read_object

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
DOCUMENTS = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(DOCUMENTS)
def test_documents_are_read_as_json_reads_them(data: Any) -> None:
    text = json.dumps(data)
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


@given(st.text() | st.binary())
def test_anything_else_is_a_value_error(text: str | bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "levels deep"),
        ("[" * 100_000 + "]" * 100_000, "levels deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "levels deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "levels deep"),
        ('{"a": ' + "9" * 5000 + "}", "5,000 digits"),
        ('{"a": -' + "9" * 400 + "}", "401 digits"),
        (b'{"a": "\xff"}', "utf-8"),
        ('{"a": 1', "delimiter"),
        ("", "Expecting value"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_the_reason_is_given(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_the_deepest_that_is_read_can_be_printed() -> None:
    data = parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert json.loads(repr(data)) == data


def test_an_object_and_nothing_else(tmp_path: Path) -> None:
    assert parse_object('{"a": 1}') == {"a": 1}
    for text in ("[1]", "1", '"a"', "null", "true"):
        with pytest.raises(ValueError, match="must hold an object"):
            parse_object(text)
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_object(path) == {"a": 1}
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "none.json")
