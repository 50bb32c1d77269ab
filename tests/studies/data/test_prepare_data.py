from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studies.data import TokenData, prepare
from studies.data.request import is_held_out
from surgery.config.problems import UserError

# prepares until so many train shards are there, then waits to be killed; without a number it goes to the end
PREPARE = """
import sys, time
from pathlib import Path
from studies.data import prepare
corpus, folder, *most = sys.argv[1:]

def progress(*_):
    while most and len(list(Path(folder).glob("train-*.bin"))) >= int(most[0]):
        time.sleep(0.01)

prepare(corpus, "bpe:400", folder, shard_tokens=20_000, progress=progress)
"""


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def killed_after(shards: int, corpus: object, folder: Path) -> None:
    """A process that prepares the corpus into the folder, killed once it has so many train shards."""
    process = subprocess.Popen([sys.executable, "-c", PREPARE, str(corpus), str(folder), str(shards)])
    while not (folder / "tokenizer").exists() or len(list(folder.glob("train-*.bin"))) < shards:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "meta.json").exists()


def test_killed_and_run_again_gives_the_same_bytes(corpus_file: Path, tmp_path: Path) -> None:
    whole = prepare(str(corpus_file), "bpe:400", tmp_path / "whole", shard_tokens=20_000)
    killed = tmp_path / "killed"
    for shards in (1, 4):  # killed twice, at different places
        killed_after(shards, corpus_file, killed)
    kept = json.loads((killed / "progress.json").read_text())["parts"]
    assert len(kept) >= 3
    times = {part["train"]["file"]: (killed / part["train"]["file"]).stat().st_mtime_ns for part in kept}
    resumed = prepare(str(corpus_file), "bpe:400", killed, shard_tokens=20_000)
    assert content(killed) == content(tmp_path / "whole")
    assert resumed.content_hash == whole.content_hash
    for name, before in times.items():
        assert (killed / name).stat().st_mtime_ns == before, f"{name} was written again"


def test_a_stream_of_datasets_killed_and_run_again(documents: list[str], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(6):  # several files, as on the Hub
        table = pa.table({"text": documents[50 * number : 50 * number + 50]})
        pq.write_table(table, tmp_path / "set" / f"train-{number}.parquet", row_group_size=20)
    spec = f"hf:{tmp_path}/set"
    whole = prepare(spec, "bpe:400", tmp_path / "whole", shard_tokens=20_000)
    assert whole.meta["corpus"]["documents_read"] == len(documents)
    killed_after(3, spec, tmp_path / "killed")
    prepare(spec, "bpe:400", tmp_path / "killed", shard_tokens=20_000)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_two_processes_share_one_preparation(corpus_file: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", PREPARE, str(corpus_file), str(tmp_path / "data")]
    both = [subprocess.Popen(arguments) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    data = TokenData.open(tmp_path / "data", verify=True)
    assert not list(data.folder.glob("*.tmp"))


def test_finished_data_returns_at_once(corpus_file: Path, tmp_path: Path) -> None:
    first = prepare(str(corpus_file), "bpe:400", tmp_path / "data")
    calls: list[object] = []
    again = prepare(str(corpus_file), "bpe:400", tmp_path / "data", progress=lambda *call: calls.append(call))
    assert again.content_hash == first.content_hash
    assert calls == []


def test_progress_counts(corpus_file: Path, documents: list[str], tmp_path: Path) -> None:
    calls: list[tuple[int, int, int | None]] = []
    data = prepare(
        str(corpus_file),
        "bpe:400",
        tmp_path / "a",
        shard_tokens=9_000,
        progress=lambda *call: calls.append(call),
    )
    assert calls == sorted(calls)
    assert calls[-1] == (len(documents), len(data.tokens("train")), None)


def test_a_limit_is_a_prefix_with_the_same_split(corpus_file: Path, tmp_path: Path) -> None:
    whole = prepare(str(corpus_file), "bpe:400", tmp_path / "whole")
    part = prepare(str(corpus_file), "bpe:400", tmp_path / "part", max_tokens=30_000, min_val_tokens=3_000)
    train, val = len(part.tokens("train")), len(part.tokens("val"))
    assert 30_000 <= train < 40_000
    assert val >= 3_000
    assert part.tokens("train")[:].tolist() == whole.tokens("train")[:train].tolist()
    assert part.tokens("val")[:].tolist() == whole.tokens("val")[:val].tolist()
    assert not part.meta["corpus"]["exhausted"]


def test_the_split_does_not_depend_on_order(documents: list[str], tmp_path: Path) -> None:
    shuffled = random.Random(0).sample(documents, len(documents))
    folders = []
    for name, texts in (("a", documents), ("b", shuffled)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
        folders.append(prepare(str(tmp_path / f"{name}.jsonl"), "bpe:400", tmp_path / name))
    assert folders[0].meta["val"]["bytes"] == folders[1].meta["val"]["bytes"]
    assert folders[0].meta["val"]["documents"] == sum(
        is_held_out(text, folders[0].meta["request"]["val_fraction"]) for text in documents
    )
    assert all(is_held_out(text, 0.1) for text in documents if is_held_out(text, 0.02))  # shares are nested


def test_the_default_folder(corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "home"))
    data = prepare(str(corpus_file), "bpe:400", max_tokens=20_000)
    assert data.folder.parent == tmp_path / "home" / "data"
    assert data.folder.name.startswith("docs-bpe400-20.0k-")
    other = prepare(str(corpus_file), "bpe:400", max_tokens=20_001)
    assert other.folder != data.folder
    monkeypatch.delenv("NAS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert prepare(str(corpus_file), "bpe:400").folder.parent == tmp_path / "cache" / "nas" / "data"


def test_a_folder_of_something_else_is_refused(corpus_file: Path, tmp_path: Path) -> None:
    prepare(str(corpus_file), "bpe:400", tmp_path / "data")
    with pytest.raises(UserError, match="holds another preparation") as caught:
        prepare(str(corpus_file), "bpe:500", tmp_path / "data", val_fraction=0.3)
    assert [problem.field for problem in caught.value.problems] == ["tokenizer", "val_fraction"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"already holds other things \(thesis.tex\)"):
        prepare(str(corpus_file), "bpe:400", tmp_path / "mine")
    with pytest.raises(UserError, match="can't be written"):
        prepare(str(corpus_file), "bpe:400", tmp_path / "mine" / "thesis.tex" / "sub")


@pytest.mark.parametrize(
    "name",
    ["tokenizer/tokenizer.json", "notes.tmp", "train-00000.bin", "progress.json", "meta.json", "x.bin.tmp"],
)
def test_files_of_the_users_own_are_left_alone(corpus_file: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(UserError, match="already holds other things"):
        prepare(str(corpus_file), "bpe:400", tmp_path / "mine")
    assert [item for item in (tmp_path / "mine").rglob("*") if item.is_file()] == [path]
    assert path.read_text() == "{}"


def test_a_file_put_beside_a_preparation_is_left_alone(corpus_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"

    def stop(*_: object) -> None:
        (folder / "notes.tmp").write_text("mine")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(str(corpus_file), "bpe:400", folder, progress=stop)
    assert (folder / "notes.tmp").read_text() == "mine"


def test_bad_settings_come_all_at_once(corpus_file: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepare(str(corpus_file), max_tokens=0, val_fraction=1.5, shard_tokens=0)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no text"),
        (['{"text": "  "}'] * 3, "holds no text"),
        (['{"text": "only one document"}'], "held-out|train on"),
        (['{"text": "fine"}', "{broken"], "is not JSON"),
    ],
)
def test_a_useless_corpus_leaves_nothing_behind(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        prepare(str(tmp_path / "a.jsonl"), "bpe:400", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=message):
        prepare(str(tmp_path / "a.jsonl"), "bpe:400", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_told_and_the_finished_shards_go_on(corpus_file: Path, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(UserError, match=r"No space left.*finished shards are kept"):
            prepare(str(corpus_file), "bpe:400", mount / "data", shard_tokens=20_000)
        assert not list((mount / "data").glob("*.tmp"))
        assert (mount / "data" / "train-00000.bin").exists()
        subprocess.run(["mount", "-o", "remount,size=8m", mount], check=True)
        data = prepare(str(corpus_file), "bpe:400", mount / "data", shard_tokens=20_000)
        assert TokenData.open(data.folder, verify=True).meta["corpus"]["exhausted"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_file_size_limit_is_a_user_error(corpus_file: Path, tmp_path: Path) -> None:
    """A full disk for users who may not mount one: the system refuses to let a file grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match=os.strerror(errno.EFBIG)):
            prepare(str(corpus_file), "bpe:400", tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "data").exists()


def test_a_read_only_folder_is_a_user_error(documents: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:  # others may enter it, unlike pytest's own folders
        folder = Path(name)
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in documents))
        folder.chmod(0o555)
        (folder / "a.jsonl").chmod(0o444)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65_534)  # root may write anywhere
            with pytest.raises(UserError, match=r"Permission denied.*NAS_HOME"):
                prepare(str(folder / "a.jsonl"), "bpe:400", folder / "out")
        finally:
            if user == 0:
                os.seteuid(0)
            folder.chmod(0o755)
        assert sorted(p.name for p in folder.iterdir()) == ["a.jsonl"]


def test_an_empty_start_is_taken_over(corpus_file: Path, tmp_path: Path) -> None:
    """Killed before its first shard, then asked for something else: the old tokenizer must not stay."""
    killed_after(0, corpus_file, tmp_path / "data")
    assert prepare(str(corpus_file), "bpe:500", tmp_path / "data").vocab_size == 500


def test_importing_is_light() -> None:
    heavy = ["torch", "optuna", "transformers", "datasets", "tokenizers", "pyarrow"]
    code = f"import studies.data, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
