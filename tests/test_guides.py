"""The commands that the README and the guides show, run one after the other as a reader would.

They run in a scratch folder, on the built-in text. `tiny` there is the preset with fewer tokens, budgets are
smaller, and the pretrained model's place is taken by a random one of its kind; nothing else is changed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.llama import save_random_llama
from tests.pages import README, ROOT, blocks, name_of, runnable

GUIDES = [
    README,
    *(ROOT / "docs" / "guide" / f"{name}.md" for name in ("search", "trust", "surgery", "spaces")),
]
PYTHON = [ROOT / "docs" / "guide" / "surgery.md", ROOT / "docs" / "reference" / "python.md"]
MODEL = "HuggingFaceTB/SmolLM2-135M"  # a relative path as well
BUDGETS = {
    "--trials": "17",  # five baselines, and enough for importances
    "--runs": "2",
    "--times": "2",
    "--architectures": "3",
    "--tokens": "20k",
    "--heal": "8k",
    "--align": "8k",
    "--retrieval": "2",
}
TOKENS = ("tokens: 100k ", "tokens: 4k ")  # of tiny's proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def smaller(line: str) -> list[str]:
    """The words behind `nas`, with budgets of this test."""
    words = shlex.split(line)
    assert words[0] == "nas"
    words = ["tiny.yaml" if word == "tiny" else word for word in words[1:]]
    for index, word in enumerate(words[:-1]):
        if word in BUDGETS and words[0] != "generate":  # the guides generate few tokens
            words[index + 1] = BUDGETS[word]
    return words


def environment(folder: Path) -> Mapping[str, str]:
    return {**os.environ, "NAS_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    shown = f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == 0, shown
    return done


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("guides")
    preset = (ROOT / "search_spaces" / "presets" / "tiny.yaml").read_text(encoding="utf-8")
    assert TOKENS[0] in preset
    (folder / "tiny.yaml").write_text(preset.replace(*TOKENS), encoding="utf-8")
    yield folder
    shutil.rmtree(folder)


def test_the_guides_work_from_the_first_command_to_the_last(scratch: Path) -> None:
    for page in GUIDES:
        for line in runnable(page):
            if MODEL in line and not (scratch / MODEL).exists():
                tokenizer = (scratch / "model").glob("tokenizer*")
                save_random_llama(
                    scratch / MODEL, tokenizer, 1024, hidden_size=96, intermediate_size=256,
                    num_hidden_layers=4, num_attention_heads=3, num_key_value_heads=3,
                    max_position_embeddings=512,
                )  # fmt: skip
            words = smaller(line)
            if "-o" in words and Path(scratch, words[words.index("-o") + 1]).exists():
                words.append("--overwrite")  # the search guide picks and trains as the README has
            assert run(scratch, "-m", "nas_cli.main", *words).stdout, (
                f"{name_of(page)}: {line} prints nothing"
            )
    for made in ("pick.yaml", "front.csv", "front.html", "front.png", "audit.png", "hypervolume.html"):
        assert (scratch / made).stat().st_size > 0, made
    for page in PYTHON:  # with the model, the study and the design that the commands have left
        code = "\n".join(block.text for block in blocks(page, "python"))
        assert code
        run(scratch, "-c", code)
