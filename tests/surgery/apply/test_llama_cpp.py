"""Results that are a class of transformers run in llama.cpp: converted to GGUF, they give the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from surgery.apply.execute import execute
from surgery.apply.hybrids import GATED
from surgery.apply.plan import plan
from surgery.apply.source import read_source
from surgery.apply.stock import choose_export
from surgery.apply.stock_export import write_stock
from surgery.hf.card import in_llama_cpp
from surgery.hf.lazy import LazyModel
from surgery.model import HybridLM
from tests import llama_cpp
from tests.models import architecture, build
from tests.surgery.apply.test_stock import OLMO, OLMO_G

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TOKENS = 64
PROMPT = "The three states of matter are"
HEALING = "Solids keep their shape, liquids flow, and gases fill whatever room they are given."


def heal(model: HybridLM, ids: list[int]) -> None:
    """Take a few steps on one text, so that the weights are not the checkpoint's own."""
    text = torch.tensor([ids])
    optimizer = torch.optim.SGD(model.parameters(), lr=5e-4)
    for _ in range(3):
        loss = F.cross_entropy(model.head(model(text))[0, :-1], text[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def expected(folder: Path, prompt: list[int]) -> list[int]:
    """The greedy tokens of transformers, in float32 and never the end of the text."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        result = model.generate(
            torch.tensor([prompt]), max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False,
            repetition_penalty=1.0,
        )  # fmt: skip
    return result[0, len(prompt) :].tolist()


@pytest.mark.model
def test_a_healed_smollm2_says_the_same_in_llama_cpp(smollm2: Path, tmp_path: Path) -> None:
    """Text in, text out: the tokenizer is converted too."""
    from transformers import AutoTokenizer

    llama_cpp.require()
    torch.set_num_threads(2)
    source = read_source(smollm2)
    drawn = plan(source, {})
    assert drawn.export.model_type == "llama"
    model, _ = execute(source, drawn)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    heal(model, tokenizer(HEALING)["input_ids"])
    write_stock(LazyModel.of(model), drawn.export, tmp_path, tokenizer_dir=smollm2)
    del model
    ids = expected(tmp_path, tokenizer(PROMPT)["input_ids"])
    generated, text = llama_cpp.greedy(llama_cpp.convert(tmp_path, tmp_path / "model.gguf"), PROMPT, TOKENS)
    print(f"\n{PROMPT}{text}")
    assert generated == ids
    assert text == tokenizer.decode(ids)


EVEN_G = {"G": {"key_ratio": 0.5, "expand_v": 1.0, "heads": 2}}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "F", {"biases": ["q", "k", "v", "o", "gate", "up", "down"]}),
    ("mistral", "W", {"mixers": {"W": {"window": 128}}}),  # more than the text
    ("qwen3", "F", {"qk_norm": True, "tie_embeddings": True}),
    ("smollm3", "F", {"num_layers": 4, "no_rope_layers": "3"}),
    ("olmo2", "F", {"qk_norm": True, "joint_qk_norm": True, "post_norm": True}),
    ("qwen3_5_text", "GGF", {"qk_norm": True, "num_layers": 6, "mixers": EVEN_G}),
    (
        "qwen3_5_text",
        "FG",  # every angle turns by much, the last too
        {"qk_norm": True, "mixers": EVEN_G, "head_dim": 10, "rope_theta": 4.0, "tie_embeddings": True},
    ),
]


@pytest.mark.parametrize(("kind", "layout", "options"), CASES)
def test_stock_classes_give_the_same_tokens_in_llama_cpp(
    kind: str, layout: str, options: dict[str, Any], shared_data: Path, tmp_path: Path
) -> None:
    llama_cpp.require()
    generated, ids = both(kind, layout, options, shared_data, tmp_path)
    assert generated == ids


OTHERS: list[tuple[str, str, dict[str, Any]]] = [
    ("qwen3", "WF", {"qk_norm": True, "mixers": {"W": {"window": 8}}}),  # no windows
    ("smollm3", "FW", {"num_layers": 4, "mixers": {"W": {"window": 128}}}),  # no RoPE in the last layer
    ("qwen3", "F", {"qk_norm": True, "rope_scaling": LLAMA3}),  # no scaling
    ("olmo2", "F", {"qk_norm": True, "joint_qk_norm": True, "post_norm": True, "rope_scaling": LLAMA3}),
    ("qwen3_5_text", "GF", {"qk_norm": True, "mixers": EVEN_G, "rope_scaling": LLAMA3}),
]
REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("qwen3", "F", {"qk_norm": True, "biases": ["q", "k", "v", "o"]}),
    ("olmo2", "F", {"qk_norm": True, "joint_qk_norm": True, "post_norm": True, "tie_embeddings": True}),
    ("smollm3", "F", {"num_layers": 4, "no_rope_layers": "3", "rope_scaling": LLAMA3}),
    ("qwen3_5_text", "GF", {"qk_norm": True}),  # values of twice the keys' width
    ("qwen3_next", "GF", {"qk_norm": True, "mixers": EVEN_G}),
    ("olmo_hybrid", "GF", {"mixers": OLMO_G, **OLMO}),
]
SAID = {
    "So does llama.cpp": [case for case in CASES if case[1] == "F"],
    "`convert_hf_to_gguf.py --no-mtp`": [case for case in CASES if case[0] == "qwen3_5_text"],
    "ignores its windows": [case for case in [*CASES, *OTHERS] if case[1] in ("W", "WF")],
    "every fourth layer": [case for case in OTHERS if case[0] == "smollm3"],
    "ignores llama3": [case for case in OTHERS if "rope_scaling" in case[2]],
    "can't load": REFUSED,
}


@pytest.mark.parametrize("sentence", SAID)
def test_the_card_says_what_llama_cpp_makes_of_a_stock_class(sentence: str) -> None:
    for kind, layout, options in SAID[sentence]:
        assert sentence in in_llama_cpp(architecture(layout, **options), kind)


@pytest.mark.parametrize(("kind", "layout", "options"), OTHERS)
def test_what_llama_cpp_computes_otherwise(
    kind: str, layout: str, options: dict[str, Any], shared_data: Path, tmp_path: Path
) -> None:
    """Silently. If this fails, the guide has to say that llama.cpp runs them now."""
    llama_cpp.require()
    generated, ids = both(kind, layout, options, shared_data, tmp_path)
    assert generated != ids


@pytest.mark.parametrize(("kind", "layout", "options"), REFUSED)
def test_what_llama_cpp_refuses(
    kind: str, layout: str, options: dict[str, Any], shared_data: Path, tmp_path: Path
) -> None:
    llama_cpp.require()
    with pytest.raises(llama_cpp.Refused):
        both(kind, layout, options, shared_data, tmp_path)


def both(
    kind: str, layout: str, options: dict[str, Any], data: Path, folder: Path
) -> tuple[list[int], list[int]]:
    """The tokens that llama.cpp and transformers generate with a random model written as a stock class."""
    model = build(architecture(layout, vocab_size=49152, **options), spread=0.3)
    export = choose_export(model.architecture, kind)
    assert export.model_type == kind
    write_stock(LazyModel.of(model), export, folder, tokenizer_dir=data / "smollm2-tokenizer")
    prompt = torch.randint(100, 40000, (24,), generator=torch.Generator().manual_seed(2)).tolist()
    ids = expected(folder, prompt)
    extra = ["--no-mtp"] if kind in GATED else []  # no heads for multi-token prediction
    gguf = llama_cpp.convert(folder, folder / "model.gguf", *extra)
    return llama_cpp.greedy(gguf, prompt, TOKENS)[0], ids
