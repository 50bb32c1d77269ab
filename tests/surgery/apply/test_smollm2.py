"""SmolLM2-135M: dense surgery keeps its loss; with HDPL the loss before any healing is what is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from surgery.apply.execute import execute
from surgery.apply.pipeline import apply
from surgery.apply.plan import plan
from surgery.apply.report import fit_table
from surgery.apply.source import read_source
from tests.surgery.apply.conftest import read_texts

pytestmark = [pytest.mark.model, pytest.mark.timeout(1800)]
LENGTH = 512  # tokens of a window
HDPL = [{"match": ["gate", "up"], "operator": "hdpl", "blocks": 8, "rank": 128, "layers": "10-19"}]


def windows(path: Path, tokenizer: Path, count: int) -> torch.Tensor:
    """The first `count` windows of a text, documents joined by the end-of-text token."""
    from transformers import AutoTokenizer

    encode = AutoTokenizer.from_pretrained(tokenizer)
    ids: list[int] = []
    for text in read_texts(path, 8 * count * LENGTH):
        ids += [*encode(text)["input_ids"], encode.eos_token_id]
    assert len(ids) >= count * LENGTH
    return torch.tensor(ids[: count * LENGTH]).view(count, LENGTH)


def mean_loss(logits_of: object, ids: torch.Tensor) -> float:
    """Nats a token."""
    assert callable(logits_of)
    with torch.inference_mode():
        losses = [F.cross_entropy(logits_of(row[None])[0, :-1].float(), row[1:]) for row in ids]
    return float(torch.stack(losses).mean())


def test_dense_surgery_keeps_the_loss(smollm2: Path, shared_data: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    import surgery  # noqa: F401

    torch.set_num_threads(2)
    ids = windows(shared_data / "fineweb_edu_sample.jsonl.gz", smollm2, 8)
    report = apply(smollm2, {}, tmp_path / "out")
    assert report.verification is not None
    assert report.verification.passed
    losses = []
    for folder in (smollm2, tmp_path / "out"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        losses.append(mean_loss(lambda row, model=model: model(row, use_cache=False).logits, ids))
    print(f"\nloss on FineWeb-Edu, nats/token: {losses[0]:.5f} as it was, {losses[1]:.5f} after apply")
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    assert 2 < losses[0] < 4.5


def test_hdpl_on_gate_and_up_before_healing(smollm2: Path, shared_data: Path) -> None:
    torch.set_num_threads(2)
    ids = windows(shared_data / "fineweb_edu_sample.jsonl.gz", smollm2, 4)
    calibration = list(windows(shared_data / "openstax_edu.train.jsonl.gz", smollm2, 8))
    source = read_source(smollm2)
    dense, _ = execute(source, plan(source, {}))
    losses = {"dense": mean_loss(lambda row: dense.head(dense(row)), ids)}
    drawn = plan(source, {"projections": HDPL})
    for name, text in (("weights", None), ("activations", calibration)):
        model, fits = execute(source, drawn, calibration=text)
        losses[name] = mean_loss(lambda row, model=model: model.head(model(row)), ids)
        print(f"\nfitted to {name}\n{fit_table(fits)}")
    print("loss on FineWeb-Edu, nats/token:", {name: round(loss, 4) for name, loss in losses.items()})
    assert losses["dense"] < losses["activations"] < losses["weights"]


@pytest.mark.parametrize(
    ("letter", "options", "most"),
    [
        ("G", {"key_ratio": 1.0, "expand_v": 1.0}, 0.25),
        ("D", {"key_ratio": 1.0}, 0.25),
        ("S", {"top_k": 64}, 0.05),
        ("B", {}, 0.1),
        ("K", {}, 0.3),
        ("W", {"window": 256, "sinks": 4}, 0.01),
    ],
    ids="GDSBKW",
)
def test_mixers_start_better_than_silent(
    smollm2: Path, shared_data: Path, letter: str, options: dict[str, Any], most: float
) -> None:
    """Three layers of 30; `most` is what their starts may add to the loss, without any healing."""
    torch.set_num_threads(2)
    ids = windows(shared_data / "fineweb_edu_sample.jsonl.gz", smollm2, 8)
    calibration = list(windows(shared_data / "openstax_edu.train.jsonl.gz", smollm2, 16))
    source = read_source(smollm2)
    replaced = (7, 15, 23)
    layout = "".join(letter if index in replaced else "F" for index in range(30))
    model, fits = execute(source, plan(source, {}))
    losses = {"original": mean_loss(lambda row: model.head(model(row)), ids)}
    drawn = plan(source, {"layout": layout, "mixers": {letter: options}})
    model, fits = execute(source, drawn, calibration=calibration)
    losses["start"] = mean_loss(lambda row: model.head(model(row)), ids)
    with torch.no_grad():
        for index in replaced:
            model.layers[index].mixer.o.weight.zero_()
    losses["silent"] = mean_loss(lambda row: model.head(model(row)), ids)
    print(f"\n{letter} in layers {replaced}, nats/token: {losses}")
    print("output errors on the calibration text:", [fit.output_error for fit in fits])
    assert losses["start"] < losses["original"] + most
    assert losses["start"] < losses["silent"]
