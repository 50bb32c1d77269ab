"""Counts and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.config.quantities import format_bytes, format_count, parse_bytes, parse_count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("20M", 20_000_000), ("20m", 20_000_000), ("1.5B", 1_500_000_000), ("500k", 500_000),
        ("2T", 2 * 10**12), ("3G", 3 * 10**9), ("20_000", 20_000), (" 7 ", 7), (7, 7), (2e7, 20_000_000),
        ("2e7", 20_000_000),
        ("1e-3k", 1), (0, 0), ("62.531072M", 62_531_072), (2**53 + 1, 2**53 + 1), (2**63 - 1, 2**63 - 1),
    ],
)  # fmt: skip
def test_parse_count(text: object, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text",
    ["", "M", "20 X", "20MM", "1.5", 1.5, "-3", -1, True, None, [], "nan", float("nan"), float("inf"), "1e99",
     "1e999999999", "1e-999999999", "9e999999T", "8MiB", "1,000", "0.0001k", 2**63],
)  # fmt: skip
def test_parse_count_refuses(text: object) -> None:
    with pytest.raises(ValueError, match="must be a whole count"):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8MiB", 8 * 2**20), ("8mib", 8 * 2**20), ("1.5 KiB", 1536), ("2GB", 2 * 10**9), ("1TiB", 2**40),
        ("4096", 4096), ("4096B", 4096), (4096, 4096), ("3 kb", 3000), ("0.5MB", 500_000),
    ],
)  # fmt: skip
def test_parse_bytes(text: object, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["8M", "8 MiBs", "-1KiB", "0.3B", None, False])
def test_parse_bytes_refuses(text: object) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (9999, "9,999"), (10_000, "10.0k"), (62_531_072, "62.5M"), (1.25e9, "1.25B"), (3e12, "3.00T"),
     (999_949, "999.9k"), (999_950, "1.00M"), (-20_000, "-20.0k")],
)  # fmt: skip
def test_format_count(count: float, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (8 * 2**20, "8.0 MiB"), (2**20 - 1, "1.0 MiB"),
     (1.5 * 2**30, "1.5 GiB"), (2**41, "2.0 TiB")],
)  # fmt: skip
def test_format_bytes(size: float, text: str) -> None:
    assert format_bytes(size) == text


@given(st.integers(0, 2**63 - 1))
def test_whole_numbers_survive(count: int) -> None:
    assert parse_count(count) == parse_count(str(count)) == count
    assert parse_bytes(count) == parse_bytes(f"{count} B") == count


@given(st.floats(1, 2**62))
def test_what_is_shown_is_near_and_reads_back(value: float) -> None:
    assert parse_count(format_count(value).replace(",", "")) == pytest.approx(value, rel=0.05, abs=0.5)
    number, unit = format_bytes(value).split()
    assert float(number) * parse_bytes(f"1 {unit}") == pytest.approx(value, rel=0.05, abs=0.5)
