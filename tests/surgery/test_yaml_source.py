"""YAML with lines: what is read, where it stands, and every way in which it can be broken."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from surgery.problems import UserError
from surgery.yaml_source import load_yaml


def read(text: str) -> Any:
    return load_yaml("file.yaml", text=text).data


def broken(text: str) -> str:
    with pytest.raises(UserError) as caught:
        load_yaml("file.yaml", text=text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E3", 1e3), ("-1e+3", -1e3), ("1.5e3", 1.5e3), ("1.0e-6", 1e-6), (".5", 0.5),
        (".5e-1", 0.05), ("1.", 1.0), ("-.inf", float("-inf")), ("1_000", 1000), ("1_000.5", 1000.5),
        ("0x1e3", 0x1E3), ("0", 0), ("-7", -7), ("+7", 7), ("1:2", "1:2"), ("1:30", "1:30"), ("1::2", "1::2"),
        ("1:3:2", "1:3:2"), ("0-3", "0-3"), ("0-3,-1", "0-3,-1"), ("e3", "e3"), ("1e", "1e"),
        ("1e3x", "1e3x"), (".", "."),
        ("20M", "20M"), ("true", True), ("null", None), ("'1e-3'", "1e-3"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: object) -> None:
    found = read(f"a: {text}")["a"]
    assert (type(found), found) == (type(value), value)


@given(st.floats(allow_nan=False) | st.integers(-(10**40), 10**40))
def test_numbers_survive_as_python_and_as_yaml_write_them(number: float) -> None:
    written = yaml.safe_dump({"a": number})
    for text in (f"a: {number!r}", written) if abs(number) != float("inf") else (written,):
        assert read(text) == {"a": number}
        assert type(read(text)["a"]) is type(number)


def test_lines_of_keys_and_items() -> None:
    source = load_yaml("x.yaml", text="# note\na:\n  b: 1\n  c: [1,\n    {d: 2}]\n\ne: {f: 3}\n")
    assert source.data == {"a": {"b": 1, "c": [1, {"d": 2}]}, "e": {"f": 3}}
    places = [("a",), ("a", "b"), ("a", "c", 0), ("a", "c", 1, "d"), ("e", "f")]
    assert [source.line(path) for path in places] == [2, 3, 4, 5, 7]
    assert source.line(("a", "missing", "deeper")) == 2  # the nearest parent
    assert source.line(("missing",)) is None
    assert source.line(()) is None
    assert source.name == "x.yaml"


def test_aliases_and_merges_are_read() -> None:
    source = load_yaml("x", text="base: &b {p: 1, q: 2}\nuse: {<<: *b, q: 3}\nagain: *b\n")
    assert source.data == {"base": {"p": 1, "q": 2}, "use": {"p": 1, "q": 3}, "again": {"p": 1, "q": 2}}
    assert source.line(("again", "p")) == 3


def test_an_alias_to_itself_ends() -> None:
    data = read("a: &x [*x]\nb: &y {y: *y}")
    assert data["a"][0] is data["a"]
    assert data["b"]["y"] is data["b"]


def test_a_key_written_twice_is_an_error_wherever_it_is() -> None:
    message = broken("a: 1\nb:\n  - {c: 1, c: 2}\na: 3\n")
    assert "line 3: b.0.c: is written twice (also in line 3)" in message
    assert "line 4: a: is written twice (also in line 1) (keep one)" in message


@pytest.mark.parametrize(
    "text",
    [
        "a: [1", "a: {b", "a: b: c", "\ta: 1", "a: *nothing", "a: 1\n---\nb: 2", "? [1]\n: 2",
        "a: !!python/name:os x", "a: !unknown 1", "a: \x00", "a: 2026-13-45", "a: !!int x", "<<: 3",
        "a: " + "9" * 5000,
        "[" * 5000, "@", "%",
    ],
)  # fmt: skip
def test_what_is_not_yaml_is_told(text: str) -> None:
    assert broken(text).startswith("file.yaml is not valid YAML\n  - ")


def test_the_line_of_a_syntax_error() -> None:
    assert "line 3" in broken("a: 1\nb: 2\nc: ]\nd: 3\n")


def test_nothing_is_read_as_nothing() -> None:
    assert read("") is None
    assert read("# only a note\n") is None


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "model.safetensors"
    binary.write_bytes(bytes(range(256)) * 4)
    cases = [(tmp_path / "none.yaml", "No such file"), (tmp_path, "directory"), (binary, "utf-8")]
    for path, reason in cases:
        with pytest.raises(UserError, match="can't read") as caught:
            load_yaml(path)
        assert reason in str(caught.value)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_yaml(path).data == {"a": 1}


@given(st.text())
def test_any_text_is_either_read_or_a_user_error(text: str) -> None:
    with contextlib.suppress(UserError):
        load_yaml("any", text=text)
