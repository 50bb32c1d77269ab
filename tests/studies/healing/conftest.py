"""A random Llama of transformers as the original model, a surgery on it, and text by its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from studies.data import TokenData
from studies.healing.settings import HealSettings
from studies.healing.teacher import Teacher
from surgery.apply.execute import execute
from surgery.apply.plan import Plan, plan
from surgery.apply.source import SourceModel, read_source
from surgery.model import HybridLM
from tests.nas_cli.conftest import llama_folder, prepared, text_file

__all__ = ["llama_folder", "prepared", "text_file"]  # fixtures

HDPL = {"match": ["gate", "up"], "operator": "hdpl", "blocks": 4, "rank": 8, "kl": "mean"}
SETTINGS = HealSettings(tokens=8192, seq_len=64, batch_tokens=512, lr=3e-3, eval_tokens=4096, eval_every=4)


@pytest.fixture(scope="session")
def source(llama_folder: Path) -> SourceModel:
    return read_source(llama_folder)


@pytest.fixture(scope="session")
def text(prepared: Path) -> TokenData:
    return TokenData.open(prepared)


@pytest.fixture(scope="session")
def teacher(source: SourceModel) -> Teacher:
    return Teacher(source, torch.device("cpu"))


@pytest.fixture(scope="session")
def planned(source: SourceModel) -> Plan:
    """Gate and up fitted in both layers, attention of the second one replaced."""
    return plan(source, {"projections": [HDPL], "layout": "FG"})


@pytest.fixture
def rewritten(source: SourceModel, planned: Plan) -> HybridLM:
    return execute(source, planned)[0]
