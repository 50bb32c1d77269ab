"""Files that a user asked for: written whole, and never over what nas did not write."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from surgery.config.problems import UserError
from surgery.files.outputs import check_output, output, signed


def write(path: Path, text: str) -> None:
    with output(path, "--output", "file") as file:
        file.write_text(text)


TABLE = "trial,baseline,hash,architecture,val_loss,runs,p_front,val_loss_half\n0,dense,a,F,3.0,1,,\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", signed("# header\nlayout: F\n")),
        ("a", signed("layout: F\n")),
        ("a.csv", TABLE),
        ("a.csv", "\ufeff" + TABLE.replace("\n", "\r\n")),
        ("a.html", "<html></html>\n<!-- written by nas -->\n"),
    ],
)
def test_what_nas_wrote_is_replaced(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for content in (text, text):
        write(path, content)
    assert path.read_text(encoding="utf-8") == text.replace("\r\n", "\n")
    assert [item.name for item in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.md", "# written by nas\n"),
        ("a.yaml", "layout: F\n"),
        ("a.yaml", signed("layout: F\n").replace("F", "G")),  # edited
        ("a.yaml", signed("layout: F\n") + "loop: {count: 2}\n"),
        ("a.yaml", "extra: 1\n" + signed("layout: F\n")),
        ("table.csv", "a,b\n1,2\n"),
        ("table.csv", TABLE.replace("trial,", "mine,trial,", 1)),
        ("photo.png", "\x89PNG of a cat"),
        ("page.html", "<html>mine</html>"),
    ],
)
def test_what_nas_did_not_write_is_left_alone(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match="nas did not write it or it was changed since"):
        write(path, "new")
    with pytest.raises(UserError, match="name another file"):
        check_output(path, "--plot", "plot")
    assert path.read_text() == text
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    write(path, signed("one"))

    def fail(error: Exception) -> None:
        with output(path, "--output", "file") as file:
            file.write_text("half")
            raise error

    with pytest.raises(RuntimeError):
        fail(RuntimeError())
    with pytest.raises(UserError, match="No space left"):
        fail(OSError(28, "No space left on device"))
    assert path.read_text() == signed("one")
    assert [item.name for item in tmp_path.iterdir()] == ["a.yaml"]


def test_links_modes_and_devices(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    write(real, signed("one"))
    real.chmod(0o600)
    link.symlink_to(real)
    write(link, signed("two"))
    assert link.is_symlink()
    assert real.read_text() == signed("two")
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    write(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(UserError, match="directory"):
        write(tmp_path, "text")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't write"):
        write(tmp_path / "no" / "such" / "folder.yaml", "text")
