"""A random Llama of transformers as the original model, and text by its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.data import TokenData
from surgery.apply.source import SourceModel, read_source
from tests.nas_cli.conftest import llama_folder, prepared, text_file

__all__ = ["llama_folder", "prepared", "text_file"]  # fixtures


@pytest.fixture(scope="session")
def source(llama_folder: Path) -> SourceModel:
    return read_source(llama_folder)


@pytest.fixture(scope="session")
def text(prepared: Path) -> TokenData:
    return TokenData.open(prepared)
