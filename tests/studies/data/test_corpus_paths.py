"""A corpus by every spelling of its path, and folders with everything in them that folders can hold."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from studies.data import open_corpus, prepare
from studies.data.corpora import located
from studies.data.tokenizers import located_tokenizer
from surgery.config.problems import UserError

TEXTS = [f"Document {number} of a small corpus." for number in range(5)]


def write(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory, which is the working directory too, with a corpus of two files and links to it."""
    write(tmp_path / "corpus" / "a.jsonl", TEXTS[:2])
    write(tmp_path / "corpus" / "sub" / "b.jsonl", TEXTS[2:])
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    (tmp_path / "relative").symlink_to("corpus")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "spec",
    ["corpus", "corpus/", "./corpus", "corpus/../corpus", "../{name}/corpus", "link", "link/", "relative",
     "~/corpus", "~/link/", "{home}/corpus", "{home}//corpus/.", "corpus?column=text"],
)  # fmt: skip
def test_every_spelling_of_a_folder_is_the_same_corpus(home: Path, spec: str) -> None:
    corpus = open_corpus(spec.format(home=home, name=home.name))
    assert list(corpus.texts()) == TEXTS
    assert corpus.spec == str(home / "corpus")
    assert corpus.fingerprint() == open_corpus(str(home / "corpus")).fingerprint()


@pytest.mark.parametrize("spec", ["corpus/a.jsonl", "./corpus/a.jsonl", "link/a.jsonl", "~/corpus/a.jsonl"])
def test_every_spelling_of_a_file_is_the_same_corpus(home: Path, spec: str) -> None:
    corpus = open_corpus(spec)
    assert list(corpus.texts()) == TEXTS[:2]
    assert corpus.spec == str(home / "corpus" / "a.jsonl")
    corpus.fingerprint()


def test_one_preparation_for_all_spellings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_HOME", str(home / "cache"))
    write(home / "corpus" / "c.jsonl", [f"Some more text, number {number}." for number in range(100)])
    folders = {prepare(spec, "bpe:257", val_fraction=0.3).folder for spec in ("corpus", "./corpus/", "link")}
    monkeypatch.chdir(home / "corpus")
    folders.add(prepare("../relative", "bpe:257", val_fraction=0.3).folder)
    assert len(folders) == 1


@pytest.mark.parametrize(
    "name", ["with space", "ünïcode 🙂", "[a]*", "what?", "a@b:c", "-dash", "a#b", "x" * 200]
)
def test_names_with_any_character(home: Path, name: str) -> None:
    write(home / name / "part [1]?.jsonl", TEXTS)
    for spec in (f"./{name}", f"./{name}/part [1]?.jsonl", f"./{name}?column=text"):
        corpus = open_corpus(spec)
        assert list(corpus.texts()) == TEXTS
        corpus.fingerprint()
        assert list(open_corpus(corpus.spec).texts()) == TEXTS  # as a study keeps it


def test_links_inside_of_a_folder_are_followed_and_a_circle_ends(home: Path) -> None:
    elsewhere = write(home / "elsewhere" / "z.jsonl", ["From elsewhere."])
    (home / "corpus" / "file.jsonl").symlink_to(elsewhere)
    (home / "corpus" / "folder").symlink_to(elsewhere.parent)
    (home / "corpus" / "up").symlink_to(home / "corpus")
    (home / "corpus" / "gone.jsonl").symlink_to(home / "nothing")
    corpus = open_corpus("corpus")
    assert [str(file.relative_to(home / "corpus")) for file in corpus.files] == [  # type: ignore[attr-defined]
        "a.jsonl", "file.jsonl", "folder/z.jsonl", "sub/b.jsonl",
    ]  # fmt: skip
    assert corpus.ignored == ("gone.jsonl",)
    assert corpus.fingerprint() == open_corpus("link").fingerprint()


def test_what_is_no_text_is_named_as_ignored(home: Path) -> None:
    os.mkfifo(home / "corpus" / "pipe.jsonl")  # reading it would wait for a writer
    (home / "corpus" / "notes.md").write_text("no corpus")
    (home / "corpus" / ".hidden.jsonl").write_text("no JSON")
    (home / "corpus" / os.fsdecode(b"bad\xff.bin")).write_text("a name that is not UTF-8")
    assert open_corpus("corpus").ignored == ("bad\\udcff.bin", "notes.md", "pipe.jsonl")


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("empty", "no file that can be read"),
        ("pipe.jsonl", "neither a file nor a folder"),
        ("/dev/null", "neither a file nor a folder"),
        ("gone.jsonl", "a link to nothing"),
        ("circle", "a link to nothing"),
        ("~nobody-of-that-name/corpus", "no such file"),
        ("x" * 300, "no such file"),
        ("corpus/" + "y/" * 3000, "no such file"),
        ("nul\0byte", "no such file"),
        ("half\ud800pair", "no such file"),
        (os.fsdecode(b"bad\xff.jsonl"), "not UTF-8"),
        ("corpus?col=text", "only \\?column=NAME may follow"),
        ("corpus?column=", "only \\?column=NAME may follow"),
    ],
)
def test_what_can_not_be_a_corpus_is_a_user_error(home: Path, spec: str, rule: str) -> None:
    (home / "empty").mkdir()
    os.mkfifo(home / "pipe.jsonl")
    (home / "gone.jsonl").symlink_to("nothing")
    (home / "circle").symlink_to("circle")
    write(home / os.fsdecode(b"bad\xff.jsonl"), TEXTS)
    with pytest.raises(UserError, match=rule) as caught:
        open_corpus(spec)
    str(caught.value).encode()  # can be printed


def test_a_file_that_can_not_be_read_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = home / "corpus" / "sub" / "b.jsonl"
    if os.geteuid() == 0:  # who may read everything: the file goes between listing and reading
        corpus = open_corpus("corpus")
        target.unlink()
        assert "No such file" in refusal(corpus)
        return
    target.chmod(0)
    assert "Permission denied" in refusal(open_corpus("corpus"))
    target.parent.chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        open_corpus("corpus")
    target.parent.chmod(0o755)


def refusal(corpus: object) -> str:
    messages = set()
    for read in (lambda: corpus.fingerprint(), lambda: list(corpus.texts())):  # type: ignore[attr-defined]
        with pytest.raises(UserError) as caught:
            read()
        messages.add(str(caught.value))
    (message,) = messages
    assert "b.jsonl" in message
    return message


def test_a_recorded_corpus_is_the_same_from_any_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [located(spec) for spec in ("corpus", "./link/", "~/corpus", "relative")]
    assert set(kept) == {str(home / "corpus")}
    assert located("corpus/a.jsonl?column=body") == f"{home}/corpus/a.jsonl?column=body"
    for spec in ("builtin", "fineweb-edu", "hf:owner/name", "hf:owner/name?column=body", "not/there"):
        assert located(spec) == spec
    assert located_tokenizer("corpus") == str(home / "corpus")
    assert [located_tokenizer(spec) for spec in ("bpe:512", "gpt2", "owner/name")] == [
        "bpe:512", "gpt2", "owner/name",
    ]  # fmt: skip
    monkeypatch.chdir(home / "corpus")
    assert list(open_corpus(kept[0]).texts()) == TEXTS
