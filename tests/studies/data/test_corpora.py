from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studies.data.corpora import open_corpus
from studies.data.corpus import Corpus, clean_text
from studies.data.hub import HubCorpus
from surgery.config.problems import UserError


def write_jsonl(path: Path, texts: list[str], column: str = "text") -> Path:
    data = "".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(texts)).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_parquet(path: Path, texts: list[str | None], column: str = "text") -> Path:
    # The columns of FineWeb-Edu's files that matter here, in small row groups as a stream would meet them.
    table = pa.table({column: texts, "id": list(range(len(texts))), "score": [3.1] * len(texts)})
    pq.write_table(table, path, row_group_size=7)
    return path


def write_txt(path: Path, texts: list[str]) -> Path:
    path.write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")
    return path


TEXTS = [f"Document {i}: ünïcode 🙂 and\nsome more words." for i in range(40)]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", write_jsonl),
        ("a.jsonl.gz", write_jsonl),
        ("a.parquet", write_parquet),
        ("a.txt", write_txt),
    ],
)
def test_every_format_gives_the_same_documents(
    tmp_path: Path, name: str, write: Callable[[Path, list[str]], Path]
) -> None:
    path = write(tmp_path / name, TEXTS)
    assert list(open_corpus(str(path)).texts()) == TEXTS


def test_a_gzipped_txt_is_cut_at_blank_lines_into_page_sized_documents(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}. " + "word " * 100 for i in range(20)]
    path = tmp_path / "book.txt.gz"
    with gzip.open(path, "wt") as stream:
        stream.write("\r\n\r\n".join(paragraphs))
    result = list(open_corpus(str(path)).texts())
    assert 2_000 <= len(result[0]) < 3_000
    assert "\n\n".join(result).split() == " ".join(paragraphs).split()


def test_a_folder_is_read_in_order_and_names_what_it_ignores(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", TEXTS[10:20])
    write_parquet(tmp_path / "a.parquet", list(TEXTS[:10]))
    (tmp_path / "c").mkdir()
    write_txt(tmp_path / "c" / "z.txt", TEXTS[20:])
    (tmp_path / "README.md").write_text("not text to learn from")
    corpus = open_corpus(str(tmp_path))
    assert list(corpus.texts()) == TEXTS
    assert corpus.ignored == ("README.md",)


def hub_parquet(folder: Path) -> Corpus:
    files = [
        str(write_parquet(folder / f"{i:03d}.parquet", list(TEXTS[i : i + 10]))) for i in (0, 10, 20, 30)
    ]
    return HubCorpus("parquet", None, "train", "text", data_files=files)


def hub_json(folder: Path) -> Corpus:
    files = [str(write_jsonl(folder / f"{i:03d}.jsonl.gz", TEXTS[i : i + 10])) for i in (0, 10, 20, 30)]
    return HubCorpus("json", None, "train", "text", data_files=files)


def hub_folder(folder: Path) -> Corpus:
    (folder / "set").mkdir()
    for i in (0, 10, 20, 30):
        write_parquet(folder / "set" / f"train-{i:03d}.parquet", list(TEXTS[i : i + 10]))
    return open_corpus(f"hf:{folder}/set@train")


def local_folder(folder: Path) -> Corpus:
    write_jsonl(folder / "0.jsonl", TEXTS[:15])
    write_parquet(folder / "1.parquet", list(TEXTS[15:]))
    return open_corpus(str(folder))


@pytest.mark.parametrize("make", [hub_parquet, hub_json, hub_folder, local_folder])
def test_reading_goes_on_from_any_place(
    tmp_path: Path, make: Callable[[Path], Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.data.corpus.BATCH_DOCUMENTS", 8)
    corpus = make(tmp_path)
    batches = list(corpus.batches())
    assert [text for batch in batches for text in batch.texts] == TEXTS
    for number, batch in enumerate(batches):
        for index in {0, 3, len(batch.texts)}:
            position = json.loads(json.dumps(batch.cursor_at(index)))  # as it is kept on disk
            rest = [text for later in corpus.batches(position) for text in later.texts]
            assert rest == TEXTS[8 * number + index :]


def test_a_place_stays_exact_when_taken_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.data.corpus.BATCH_DOCUMENTS", 8)
    corpus = hub_parquet(tmp_path)
    first = next(corpus.batches()).cursor_at(5)
    second = next(corpus.batches(first)).cursor_at(7)
    third = [batch.cursor for batch in corpus.batches(second)][-1]
    assert [t for batch in corpus.batches(second) for t in batch.texts] == TEXTS[12:]
    assert [t for batch in corpus.batches(third) for t in batch.texts] == TEXTS[36:]


@pytest.mark.parametrize("make", [hub_parquet, hub_json])
def test_a_dataset_without_the_column_says_which_it_has(
    tmp_path: Path, make: Callable[[Path], Corpus]
) -> None:
    corpus = make(tmp_path)
    corpus.column = "txt"
    with pytest.raises(UserError, match=r"no column 'txt'; it has .*did you mean \"text\""):
        list(corpus.batches())


def test_a_damaged_file_of_a_dataset_is_a_user_error(tmp_path: Path) -> None:
    corpus = hub_parquet(tmp_path)
    (tmp_path / "020.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(UserError, match="can't be read after"):
        list(corpus.batches())


def test_an_unknown_dataset_split_is_a_user_error(tmp_path: Path) -> None:
    hub_folder(tmp_path)
    with pytest.raises(UserError, match="can't be read"):
        list(open_corpus(f"hf:{tmp_path}/set@validation").batches())


@pytest.mark.parametrize("spec", ["fineweb-edu", "fineweb-edu:sample-100BT", "hf:a/b:c@test"])
@pytest.mark.parametrize("variable", [("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "https://hub.invalid")])
def test_no_network_names_the_way_out(
    spec: str, variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv(*variable)
    with pytest.raises(UserError, match="--data builtin"):
        next(open_corpus(spec).batches())


def test_specs() -> None:
    fineweb = open_corpus("fineweb-edu")
    assert isinstance(fineweb, HubCorpus)
    assert fineweb.spec == "hf:HuggingFaceFW/fineweb-edu:sample-10BT@train"
    assert open_corpus("fineweb-edu:sample-100BT").name == "fineweb-edu-sample-100BT"
    other = open_corpus("hf:user/set:config@test?column=body")
    assert isinstance(other, HubCorpus)
    assert (other.path, other.config, other.split, other.column) == ("user/set", "config", "test", "body")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("buildin", 'did you mean "builtin"'),
        ("", "is empty"),
        ("hf:", "names no dataset"),
        ("builtin?colum=x", "only \\?column=NAME"),
        ("builtin?column=x", "column 'text' only"),
        ("/no/such/file.jsonl", "no such file"),
    ],
)
def test_refused_specs(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_corpus(spec)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": "cut', "a.jsonl:2.*is not JSON"),
        ("a.jsonl", b'["text"]\n', "a.jsonl:1.*must be an object"),
        ("a.jsonl", b'{"text": 3}\n', "must hold text, not int"),
        ("a.jsonl", b'{"txet": "a"}\n', "has no column 'text'; it has txet.*did you mean"),
        ("a.jsonl", b'{"text": "\xff"}\n', "is not JSON"),
        ("a.txt", b"fine\n\xff\xfe\n", "a.txt:2.*is not UTF-8"),
        ("a.parquet", b"PAR1 nonsense", "not a readable parquet file"),
        ("a.jsonl.gz", b"not gzip", "can't be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 999, mtime=0)[:-9], "can't be read"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(open_corpus(str(tmp_path / name)).texts())


def test_a_parquet_column_of_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a text that is found again"] * 3)
    data = path.read_bytes()
    assert b"found again" in data
    path.write_bytes(data.replace(b"found again", b"found\xff\xfeagain"[:11]))
    with pytest.raises(UserError, match="not a readable parquet file"):
        list(open_corpus(str(path)).texts())


def test_files_and_folders_that_hold_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "x.docx").write_text("x")
    with pytest.raises(UserError, match="unknown file extension"):
        open_corpus(str(tmp_path / "x.docx"))
    with pytest.raises(UserError, match="no file that can be read"):
        open_corpus(str(tmp_path))


def test_another_column_and_empty_values(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["one", None, "", "  ", "two"], column="body")
    assert list(open_corpus(f"{path}?column=body").texts()) == ["one", "two"]
    assert list(open_corpus(str(path), column="body").texts()) == ["one", "two"]


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    before = open_corpus(str(path)).fingerprint()
    path.touch()
    assert open_corpus(str(path)).fingerprint() == before
    path.write_bytes(path.read_bytes().replace(b"Document 3", b"Document X"))
    assert open_corpus(str(path)).fingerprint() != before


def test_lone_surrogates_become_replacement_characters() -> None:
    assert clean_text(" a\ud800b\ud83d\ude42 ") == "a\ufffdb🙂"


@pytest.mark.parametrize("old", [True, False])
def test_code_of_a_data_set_is_refused_not_asked_about(old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """datasets 3 asks on standard input unless it gets False; datasets 4 and later have no such argument."""
    import datasets

    calls: list[dict[str, Any]] = []

    def before_4(
        path: str, name: str | None = None, trust_remote_code: bool | None = None, **rest: Any
    ) -> Any:
        calls.append({"trust_remote_code": trust_remote_code})
        return iter([{"text": "a"}])

    def since_4(path: str, name: str | None, **rest: Any) -> Any:
        calls.append(rest)
        return iter([{"text": "a"}])

    monkeypatch.setattr(datasets, "load_dataset", before_4 if old else since_4)
    assert list(HubCorpus("json", None, "train", "text", data_files=["x.json"]).texts()) == ["a"]
    assert [call.get("trust_remote_code", "not given") for call in calls] == [False if old else "not given"]
