"""Real studies that train in a tenth of a second: a part of the built-in text, two layers of width 16."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest

from search_spaces import SearchSpace, parse_space
from studies.data import TokenData, open_corpus, prepare
from studies.search.search import Search
from studies.study import Study
from studies.study.settings import StudySettings

from .held import HOLD, ROOT, Hold, start_held_workers

SPACE = """
name: small
backbone: {vocab_size: 512, dim: 16, num_layers: 2, num_heads: 2, ffn_dim: 32, tie_embeddings: true}
search:
  hdpl.projections: {subset: [q, k, gate, up]}
  hdpl.blocks: {choice: [1, 2, 4]}
  hdpl.rank: {choice: [2, 4, 8]}
  hdpl.kl: mean
  hdpl.kl_weight: {log: [1e-5, 1e-1]}
  loop.count: {range: [1, 3]}
constraints: [params <= 13k]
objectives: {val_loss: min, params: min, decode_flops@64: min}
baselines: [dense, hdpl-paper, lt2-looped]
proxy: {tokens: 2048, seq_len: 32, batch_tokens: 512, rungs: [0.5, 1.0], lr: 1e-2, eval_tokens: 1024}
data: {corpus: builtin, tokenizer: "bpe:512"}
"""

MakeStudy = Callable[..., Study]


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    folder = tmp_path_factory.mktemp("text")
    corpus = folder / "docs.jsonl"
    documents = islice(open_corpus("builtin").texts(), 200)
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return prepare(str(corpus), "bpe:512", folder / "tokens", min_val_tokens=2048)


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return parse_space(SPACE, "small.yaml")


@pytest.fixture
def make_study(tokens: TokenData, space: SearchSpace, tmp_path: Path) -> MakeStudy:
    """make_study(name, text=..., seed=..., sampler=..., stopping=..., url=...) -> a new study."""

    def make(
        name: str = "study",
        *,
        text: str | None = None,
        seed: int = 0,
        sampler: str = "tpe",
        stopping: str = "none",
        url: str | None = None,
    ) -> Study:
        chosen = space if text is None else parse_space(text, "small.yaml")
        return Study.create(
            name, chosen, study_settings(tokens, seed, sampler, stopping), tmp_path / "runs", url
        )

    return make


def study_settings(
    tokens: TokenData, seed: int = 0, sampler: str = "tpe", stopping: str = "none"
) -> StudySettings:
    return StudySettings(
        seed=seed,
        sampler=sampler,
        stopping=stopping,
        tokenizer="bpe:512",
        data_hash=tokens.content_hash,
        data_folder=str(tokens.folder),
    )


_SEARCHES: WeakKeyDictionary[Study, Search] = WeakKeyDictionary()


def search_of(study: Study) -> Search:
    """The search of this process over the study: the same one for the same open study."""
    if study not in _SEARCHES:
        _SEARCHES[study] = Search(study)
    return _SEARCHES[study]


def outcome(study: Study) -> list[tuple[object, ...]]:
    """All that must not depend on when a study was interrupted."""
    return [
        (
            record.number,
            record.state,
            record.hash,
            record.values,
            record.params,
            record.seeds,
            record.baseline,
        )
        for record in study.records()
    ]


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Workers that the test starts wait in the middle of trials, where it says so."""
    folder = tmp_path / "hold"
    folder.mkdir()
    monkeypatch.setenv(HOLD, str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setattr(subprocess, "Popen", subprocess.Popen)  # restored afterwards
    start_held_workers()
    result = Hold(folder)
    yield result
    result.release()


@pytest.fixture
def quiet() -> Callable[[str], None]:
    return lambda line: None
