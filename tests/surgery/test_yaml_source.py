"""YAML with lines: what is read, where it stands, and every way in which it can be broken."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from surgery.config.problems import UserError
from surgery.config.yaml_source import MAX_BYTES, MAX_DEPTH, MAX_VALUES, load_yaml


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
    result = read(f"a: {text}")["a"]
    assert (type(result), result) == (type(value), value)


@given(st.floats(allow_nan=False) | st.integers(-(10**40), 10**40))
def test_numbers_survive_as_python_and_as_yaml_write_them(number: float) -> None:
    written = yaml.safe_dump({"a": number})
    for text in (f"a: {number!r}", written) if abs(number) != float("inf") else (written,):
        assert read(text) == {"a": number}
        assert type(read(text)["a"]) is type(number)


def test_lines_of_keys_and_items() -> None:
    source = load_yaml("x.yaml", text="# note\na:\n  b: 1\n  c: [1,\n    {d: 2}]\n\ne: {f: 3}\n")
    assert source.data == {"a": {"b": 1, "c": [1, {"d": 2}]}, "e": {"f": 3}}
    paths = [("a",), ("a", "b"), ("a", "c", 0), ("a", "c", 1, "d"), ("e", "f")]
    assert [source.line(path) for path in paths] == [2, 3, 4, 5, 7]
    assert source.line(("a", "missing", "deeper")) == 2  # the nearest parent
    assert source.line(("missing",)) is None
    assert source.line(()) is None
    assert source.name == "x.yaml"


def test_aliases_and_merges_are_read() -> None:
    source = load_yaml("x", text="base: &b {p: 1, q: 2}\nuse: {<<: *b, q: 3}\nagain: *b\n")
    assert source.data == {"base": {"p": 1, "q": 2}, "use": {"p": 1, "q": 3}, "again": {"p": 1, "q": 2}}
    assert source.line(("again", "p")) == 3


@pytest.mark.parametrize(
    "text", ["a: &x [*x]", "b: 1\na: &y {y: *y}", "a: &x [[[*x]]]", "a: &x {<<: *x}", "&x\n? *x\n: 1"]
)
def test_an_alias_inside_its_own_anchor_is_an_error(text: str) -> None:
    assert "an alias stands inside its own anchor" in broken(text)


def aliases(levels: int, fan: int, first: str, joined: str) -> str:
    """A document of a few hundred bytes that stands for fan ** levels values."""
    lines = [f"a0: &a0 {first}"]
    for level in range(1, levels + 1):
        inner = ", ".join([f"*a{level - 1}"] * fan)
        lines.append(f"a{level}: &a{level} {joined.format(inner)}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        aliases(9, 10, "[x]", "[{}]"),
        aliases(40, 2, "{k: 1}", "{{<<: [{}]}}"),  # merged into one mapping again and again
        aliases(9, 10, "[x]", "{{? [{}] : 1}}"),  # as keys
        "a: [" + "1, " * 60_000 + "1]",
    ],
)
def test_more_values_than_memory_holds_are_refused_before_they_are_built(text: str) -> None:
    assert f"holds more than {MAX_VALUES:,} values" in broken(text)


def test_many_aliases_of_a_small_part_are_read() -> None:
    text = "base: &b {p: [1, 2, 3]}\nuses: [" + ", ".join(["*b"] * 1000) + "]"
    assert read(text)["uses"] == [{"p": [1, 2, 3]}] * 1000


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, "a: " + "[" * 60 + "]" * 60, "{a: " * 60 + "1" + "}" * 60,
        "\n".join("  " * level + "a:" for level in range(60)), "- " * 60 + "1", "? " * 60 + "a",
    ],
)  # fmt: skip
def test_deep_nesting_is_refused_whatever_the_interpreter_allows(text: str) -> None:
    assert "levels deep" in broken(text)


def test_fifty_levels_are_read() -> None:
    data = read("a: " + "[" * (MAX_DEPTH - 2) + "1" + "]" * (MAX_DEPTH - 2))["a"]
    for _ in range(MAX_DEPTH - 2):
        (data,) = data
    assert data == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("9" * 5000, "at most 128 digits"), ("0x" + "f" * 5000, "at most 128 digits"),
        ("0b" + "1" * 200, "at most 128 digits"), ("1" * 200 + ".5", "at most 128 digits"),
        ("2026-13-45", "month must be in 1..12"), ("!!int ''", "can't be read as int"),
        ("!!float ''", "can't be read as float"), ("!!bool perhaps", "can't be read as bool"),
        ("!!timestamp soon", "can't be read as timestamp"), ("!!int 0b", "can't be read as int"),
        ("!!binary é", "base64"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_suit_its_tag_is_an_error_with_its_line(value: str, reason: str) -> None:
    message = broken(f"b: 1\na: {value}\n")
    assert reason in message
    assert "line 2: YAML" in message


def test_what_is_no_utf_8_text_of_a_reasonable_size(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    cases = {
        "a: 1\n".encode("utf-16"): "UTF-16", b"a: \xff\n": "utf-8", b"# " + b"x" * MAX_BYTES: "bytes",
        b"a: \x00\n": "special characters are not allowed",
    }  # fmt: skip
    for content, reason in cases.items():
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            load_yaml(path)
        assert reason in str(caught.value)
    with pytest.raises(UserError, match="bytes"):
        load_yaml("text", text="# " + "x" * MAX_BYTES)


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
