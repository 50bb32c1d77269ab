"""Loss curves are read as they were written; a damaged line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.files.curve import CurveWriter, read_curve
from surgery.config.problems import UserError


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_points_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    points = [{"step": step, "tokens": 8 * step, "loss": 1 / step} for step in (1, 2, 3)]
    with CurveWriter(path) as writer:
        for point in points:
            writer.write(**point)
    assert read_curve(path) == points
    with CurveWriter(path, after=2):
        pass
    assert read_curve(path) == points[:2]
    assert read_curve(tmp_path / "none.jsonl") == []


def test_a_resumed_run_that_cannot_write_loses_no_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "curve.jsonl", '{"step": 1, "tokens": 8}', '{"step": 2, "tokens": 16}')
    before = path.read_text()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        CurveWriter(path, after=1)
    assert path.read_text() == before
    assert [item.name for item in tmp_path.iterdir()] == ["curve.jsonl"]


def test_a_last_line_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    assert read_curve(write(tmp_path / "c", '{"step": 1, "tokens": 8, "loss": 2.0}', '{"step": 2, "lo')) == [
        {"step": 1, "tokens": 8, "loss": 2.0}
    ]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("{}", "has no step"), ('{"step": 1}', "has no tokens"), ('{"step": "1"}', "has no step"),
        ('{"step": true}', "has no step"), ("[1]", "must hold an object"), ("x", "Expecting value"),
        ('{"step": 1, "tokens": 8, "loss": "low"}', "holds loss, which is no number"),
        ('{"step": 1, "tokens": 8, "loss": [1]}', "holds loss"), ("[" * 100_000, "levels deep"),
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, line: str, rule: str) -> None:
    path = write(
        tmp_path / "curve.jsonl",
        '{"step": 1, "tokens": 8, "loss": 2.0}',
        line,
        '{"step": 2, "tokens": 16, "loss": 1.0}',
    )
    with pytest.raises(UserError) as caught:
        read_curve(path)
    assert rule in str(caught.value)
    assert "curve.jsonl:2" in str(caught.value)


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "curve.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="can't be read"):
        read_curve(tmp_path / "curve.jsonl")
