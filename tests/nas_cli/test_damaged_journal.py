"""A study whose journal is damaged: every command that reads it names file and line, and exits with 2.

Journals of older versions have no checksums; there the contents of each line are all that can be judged.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from studies.study import Study
from studies.study.picks import Pick

Nas = Callable[..., Result]
SHARED = Path(__file__).parents[2].parent / "shared" / "cases" / "journals"
READING = {
    "show": ("show", "{}"),
    "trial": ("show", "{}", 0),
    "front": ("front", "{}"),
    "pick": ("pick", "{}"),
    "audit": ("audit", "{}"),
}
PICK = Pick(0, "#0", "0", None, False, (), "", "2026-12-01T00:00:00+00:00", None, "here").to_dict()


@pytest.fixture
def damaged(study_folder: Path, tmp_path: Path) -> Path:
    """A copy of a finished study, to be damaged."""
    return Path(shutil.copytree(study_folder, tmp_path / study_folder.name))


def refused(nas: Nas, folder: Path, line: int, *commands: str) -> str:
    """The message of these commands, which must name the line of the journal; nothing may be written."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    texts = []
    for name in commands:
        result = nas(*(str(word).format(folder) for word in READING[name]))
        assert result.exit_code == 2, (name, result.output)
        texts.append(str(result.exception))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert set(texts) == {texts[0]}
    assert f"line {line}: {folder / 'journal.log'}: " in texts[0]
    assert "nas doctor" in texts[0]
    return texts[0]


def entries(folder: Path) -> list[dict[str, Any]]:
    """Entries of the journal without checksums, as an older version wrote them."""
    lines = (folder / "journal.log").read_text(encoding="utf-8").splitlines()
    kept = [json.loads(line) for line in lines]
    return [{key: value for key, value in entry.items() if key not in ("chain", "left")} for entry in kept]


def write(folder: Path, changed: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in changed)
    (folder / "journal.log").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("command", READING)
def test_an_edited_line(nas: Nas, damaged: Path, command: str) -> None:
    text = (damaged / "journal.log").read_text(encoding="utf-8")
    number, lines = 7, text.splitlines(keepends=True)
    lines[number - 1] = re.sub(r"\d", "7", lines[number - 1], count=1)
    (damaged / "journal.log").write_text("".join(lines), encoding="utf-8")
    assert "was changed" in refused(nas, damaged, number, command)


def test_without_checksums_it_reads_the_same(nas: Nas, damaged: Path, study_folder: Path) -> None:
    write(damaged, entries(damaged))
    assert nas("front", damaged, "--json").stdout == nas("front", study_folder, "--json").stdout
    study = Study.open(str(damaged))
    study.inner.set_user_attr("note", "appended")  # by this version, with a checksum
    assert Study.open(str(damaged)).inner.user_attrs["note"] == "appended"


def in_op(folder: Path, op: int, key: str = "") -> int:
    """The number of the first line with this operation, and this text in it."""
    return next(n for n, e in enumerate(entries(folder), 1) if e["op_code"] == op and key in json.dumps(e))


@pytest.mark.parametrize(
    ("op", "key", "changes", "rule"),
    [
        (8, "seconds", {"user_attr": {"seconds": {"choice": []}}}, "seconds must be a number from 0"),
        (8, "seconds", {"user_attr": {"seconds": -1}}, "seconds must be a number from 0"),
        (8, "metrics", {"user_attr": {"metrics": {"val_loss": "é\0"}}}, "metrics must be an object"),
        (8, "seeds", {"user_attr": {"seeds": 5}}, "seeds must be a list"),
        (8, "rungs", {"user_attr": {"rungs": [None]}}, "rungs must be a list, each a number"),
        (8, "hash", {"user_attr": ["hash"]}, "user_attr must be an object"),
        (8, "hash", {"trial_id": 99}, "trial 99 was not created before"),
        (8, "hash", {"trial_id": True}, "trial_id must be a whole number"),
        (8, "hash", {"op_code": 77}, "op_code must be one of 0 to 10"),
        (8, "hash", {"op_code": {}}, "op_code must be one of 0 to 10"),
        (8, "hash", {"worker_id": None}, "worker_id must be text"),
        (9, "constraints:", {"system_attr": {"constraints:p": "\0"}}, "constraints:p must be a number"),
        (9, "constraints", {"system_attr": {"constraints": 1}}, "constraints must be a list"),
        (5, "", {"distribution": "[]"}, "can't be applied"),
        (5, "", {"distribution": "{"}, "can't be applied"),
        (5, "", {"param_value_internal": 1e308}, "can't be applied"),
        (6, "datetime_complete", {"values": [1.0]}, "values must be"),
        (6, "datetime_complete", {"values": None}, "values must be"),
        (6, "datetime_complete", {"values": [1.0, float("nan"), 2.0]}, "values must be"),
        (6, "datetime_complete", {"datetime_complete": "yesterday"}, "can't be applied"),
        (6, "datetime_complete", {"state": 9}, "state must be the number of a state"),
        (4, "", {"study_id": 3}, "study 3 was not created before"),
        (4, "", {"user_attrs": {"repeat_of": 50}}, "repeat_of is 50"),
        (0, "", {"directions": []}, "directions must name"),
        (0, "", {"directions": [7, 8]}, "can't be applied"),
        (2, "space", {"user_attr": {"nas": []}}, "nas must be an object with a space"),
        (2, "space", {"user_attr": {"nas": {"space": "", "seed": "x"}}}, "seed must be a whole number"),
        (3, "", {"system_attr": {"study:metric_names": ["a"]}}, "must name"),
        (3, "", {"system_attr": {"nas:pick 0": []}}, "nas:pick 0 must be an object with trial"),
        (3, "", {"system_attr": {"nas:pick 0": {**PICK, "at": "today"}}}, "at must be a time"),
        (3, "", {"system_attr": {"nas:pick 0": PICK}}, "nas:pick 0 is 0, and there are 0 trials before"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_shape(
    nas: Nas, damaged: Path, op: int, key: str, changes: dict[str, Any], rule: str
) -> None:
    number, changed = in_op(damaged, op, key), entries(damaged)
    changed[number - 1].update(changes)
    write(damaged, changed)
    assert rule in refused(nas, damaged, number, "front")


def test_lines_in_another_order(nas: Nas, damaged: Path) -> None:
    """Optuna skips entries of trials that are not there yet: results would be lost silently."""
    write(damaged, entries(damaged)[::-1])
    assert "was not created before" in refused(nas, damaged, 1, "show")
    changed = entries(damaged)[::-1]
    number = next(n for n, entry in enumerate(changed, 1) if "architecture" in entry.get("user_attr", {}))
    changed.append(changed.pop(number - 1))
    write(damaged, changed)
    assert "ends without architecture" in str(nas("show", damaged).exception)


def test_what_is_not_json(nas: Nas, damaged: Path) -> None:
    lines = (damaged / "journal.log").read_bytes().splitlines(keepends=True)
    for bad in (b"\0" * 64, b"\xff\xfe{}", b"{", b"[" * 100_000, b"null", b'"a"', b"\xef\xbb\xbf{}"):
        (damaged / "journal.log").write_bytes(b"".join([*lines[:5], bad + b"\n", *lines[5:]]))
        refused(nas, damaged, 6, "show")


@pytest.mark.parametrize("name", ["49-value-show", "5-shuffle-pick", "80-value-front"])
@pytest.mark.parametrize("command", ["show", "front", "pick"])
def test_journals_that_gave_tracebacks(nas: Nas, tmp_path: Path, name: str, command: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/cases beside the checkout, which is not there")
    (tmp_path / "mini").mkdir()
    shutil.copy(SHARED / f"{name}.log", tmp_path / "mini" / "journal.log")
    refused(nas, tmp_path / "mini", {"4": 322, "5": 1, "8": 24}[name[0]], command)
