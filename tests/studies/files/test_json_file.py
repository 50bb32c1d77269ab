"""JSON files of nas: what a damaged one is told as."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.files.json_file import read_json, write_json
from surgery.config.problems import UserError


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") is None
    write_json(tmp_path / "plan.json", {"word": "naïve"})
    assert read_json(tmp_path / "plan.json") == {"word": "naïve"}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_damaged_file_is_named_and_what_to_do_with_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path, "audit again")
    [problem] = caught.value.problems
    assert (problem.field, problem.value, problem.hint) == ("plan.json", str(path), "audit again")
    assert problem.rule.startswith("can't be read: ")
