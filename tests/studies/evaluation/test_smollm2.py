"""SmolLM2-135M finds most of what is hidden in text: the retrieval prompts suit a small pretrained model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from studies.evaluation.evaluation import evaluate_folder
from studies.evaluation.model_folder import load
from studies.evaluation.text import read_text
from tests.surgery.apply.conftest import smollm2  # noqa: F401

pytestmark = [pytest.mark.model, pytest.mark.timeout(3600)]


def test_the_pretrained_model_retrieves_most_of_it(smollm2: Path, shared_data: Path) -> None:  # noqa: F811
    torch.set_num_threads(2)
    checkpoint = load(smollm2, torch.device("cpu"))
    text = read_text(str(shared_data / "fineweb_edu_sample.jsonl.gz"))
    result = evaluate_folder(checkpoint, text, lengths=(512,), max_tokens=4096, prompts=5)
    print("\nloss at 512, nats/token:", result.losses[0].loss, "retrieval:", result.retrieval)
    assert 2 < result.losses[0].loss < 4.5
    for item in result.retrieval:
        assert item.accuracy >= 0.6, item.task
