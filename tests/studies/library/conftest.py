"""A random Llama with large weights, a space of replacements in it, and its library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from search_spaces.library import LibrarySettings
from search_spaces.replacements import KEEP, Part, Replacement, Replacements
from studies.data import TokenData
from studies.healing.saved import weights_hash
from studies.healing.teacher import Teacher
from studies.library.build import build
from studies.library.library import Library, library_key
from surgery.apply.source import SourceModel, read_source
from surgery.architecture.rules import Rule
from tests.llama import save_random_llama
from tests.nas_cli.conftest import prepared, text_file

__all__ = ["prepared", "text_file"]  # fixtures

CPU = torch.device("cpu")
SETTINGS = LibrarySettings(fit_tokens=512, seq_len=64, score_tokens=512, eval_tokens=512)
HDPL = {"blocks": 4, "rank": 8, "kl_weight": 1e-3, "kl": "mean"}
MIXERS = (
    Replacement("mixer", KEEP),
    Replacement("mixer", "G", "G", {"key_ratio": 1.0, "expand_v": 1.0}),
    Replacement("mixer", "W16+2", "W", {"window": 16, "sinks": 2}),
    Replacement("mixer", "F kv1", "F", {"kv_heads": 1}),
    Replacement("mixer", "none", "N"),
)
FFNS = (
    Replacement("ffn", KEEP),
    Replacement("ffn", "hdpl", rules=(Rule(("gate", "up"), "hdpl", HDPL),)),
    Replacement("ffn", "low_rank", rules=(Rule(("gate", "up", "down"), "low_rank", {"rank": 16}),)),
    Replacement("ffn", "dim 32", ffn_dim=32),
    Replacement("ffn", "none", ffn_dim=0),
)


@pytest.fixture(scope="session")
def source(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    """Its weights are those of transformers' initialisation times 5, so that its parts matter."""
    folder = tmp_path_factory.mktemp("llama") / "llama"
    save_random_llama(folder, (prepared / "tokenizer").iterdir(), 320, num_hidden_layers=3)
    file = folder / "model.safetensors"
    tensors = {name: tensor if "norm" in name else 5 * tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return read_source(folder)


@pytest.fixture(scope="session")
def text(prepared: Path) -> TokenData:
    return TokenData.open(prepared)


@pytest.fixture(scope="session")
def teacher(source: SourceModel) -> Teacher:
    return Teacher(source, CPU)


@pytest.fixture(scope="session")
def parts(source: SourceModel) -> Replacements:
    """All options in the layers 1 and 2; layer 0 is kept."""
    return Replacements(
        source.architecture,
        tuple(
            Part(layer, part, options)
            for layer in (1, 2)
            for part, options in (("mixer", MIXERS), ("ffn", FFNS))
        ),
    )


def open_library(folder: Path, source: SourceModel, text: TokenData, settings: LibrarySettings) -> Library:
    key = library_key(source.architecture, weights_hash(source), text.content_hash, settings)
    return Library.open(folder, key)


@pytest.fixture(scope="session")
def library(
    source: SourceModel, parts: Replacements, text: TokenData, tmp_path_factory: pytest.TempPathFactory
) -> Library:
    """Complete; tests must not change it."""
    result = open_library(tmp_path_factory.mktemp("library") / "a", source, text, SETTINGS)
    build(result, source, parts, text, SETTINGS, CPU)
    return result
