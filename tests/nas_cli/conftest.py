"""A study small enough to be trained in a few seconds, on real text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import Result

from tests.llama import save_random_llama

MICRO = """\
name: micro
backbone: {vocab_size: 320, dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64, tie_embeddings: true}
search:
  hdpl.projections: {subset: [q, v, gate, up]}
  hdpl.blocks: {choice: [2, 4]}
  hdpl.rank: {choice: [4, 8]}
  hdpl.kl_weight: 1e-3
  hdpl.kl: mean
  loop.count: {choice: [1, 2, 3]}
constraints: ["decode_flops@64 <= 120k"]
objectives: {val_loss: min, params: min}
baselines: [dense, lt2-looped]
proxy: {tokens: 1024, seq_len: 32, batch_tokens: 256, rungs: [1.0], eval_tokens: 512}
data: {corpus: builtin, tokenizer: "bpe:320"}
"""


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some documents of the built-in text as a corpus of its own."""
    import json
    from itertools import islice

    from studies.data import open_corpus

    path = tmp_path_factory.mktemp("text") / "docs.jsonl"
    texts = islice(open_corpus("builtin").texts(), 120)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def prepared(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as tokens, 320 of them in the vocabulary."""
    from studies.data import prepare

    return prepare(str(text_file), "bpe:320", tmp_path_factory.mktemp("prepared") / "data").folder


@pytest.fixture(scope="session")
def architecture_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An architecture of the micro space, HDPL in half of it and looped."""
    path = tmp_path_factory.mktemp("architecture") / "micro.yaml"
    path.write_text(
        "backbone: {vocab_size: 320, dim: 32, num_layers: 2, num_heads: 2, num_kv_heads: 1, head_dim: 16,\n"
        "           ffn_dim: 64, tie_embeddings: true}\n"
        "projections:\n"
        "  - {match: [q, gate], operator: hdpl, blocks: 2, rank: 8, kl: mean}\n"
        "loop: {count: 2}\n"
    )
    return path


@pytest.fixture(scope="session")
def model_folder(architecture_file: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `architecture_file`'s model, trained a little."""
    import torch

    from studies.data import TokenData
    from studies.training.pretrain import pretrain
    from studies.training.settings import TrainSettings
    from surgery.architecture import Architecture

    out = tmp_path_factory.mktemp("model") / "micro"
    settings = TrainSettings(tokens=4096, seq_len=32, batch_tokens=512, eval_tokens=2048)
    pretrain(
        Architecture.from_yaml(architecture_file), TokenData.open(prepared), settings, out,
        seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def study_folder(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of the micro space: trained, infeasible and duplicate trials."""
    from search_spaces import parse_space
    from studies.data import TokenData
    from studies.study import Study
    from studies.study.settings import StudySettings
    from studies.workers.worker import work

    runs = tmp_path_factory.mktemp("runs")
    data = TokenData.open(prepared)
    settings = StudySettings(
        sampler="random", corpus=str(prepared), tokenizer="bpe:320", data_hash=data.content_hash,
        data_folder=str(prepared),
    )  # fmt: skip
    study = Study.create("micro", parse_space(MICRO, "micro.yaml"), settings, runs)
    work(study, target=6, device="cpu", log=lambda line: None)
    return study.folder


@pytest.fixture(scope="session")
def llama_folder(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama of transformers with the tokenizer of the prepared text."""
    folder = tmp_path_factory.mktemp("llama") / "llama"
    save_random_llama(folder, (prepared / "tokenizer").iterdir(), 320)
    return folder


@pytest.fixture(scope="session")
def nas(cli: typer.Typer) -> Callable[..., Result]:
    """Runs a command of `nas` in this process; a mistake of the user becomes exit code 2 and its text."""
    from typer.testing import CliRunner

    from surgery.config.problems import UserError

    def run(*args: object) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args])
        if isinstance(result.exception, UserError):
            result.exit_code = 2
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
