"""Losses by length, distance from a teacher, and retrieval, of models in memory."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from studies.evaluation.decoding import greedy
from studies.evaluation.evaluation import evaluate_model
from studies.evaluation.perplexity import measure
from studies.evaluation.retrieval import TASKS, draw_prompts, pass_key, retrieve
from studies.evaluation.text import Tokens
from surgery.config.problems import UserError
from surgery.hf.configuration import NasConfig
from surgery.hf.modeling import NasForCausalLM
from tests.models import architecture, build
from tests.surgery.apply.conftest import random_model

IDS = np.arange(2, 500) * 7 % 61


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A byte-level tokenizer whose digits are tokens of their own."""
    from transformers import AutoTokenizer

    from studies.data.tokenizers import write_bpe

    folder = tmp_path_factory.mktemp("tokenizer")
    write_bpe(320, ["The number of the pass key is hidden. Remember the pass key. " * 20], folder)
    return AutoTokenizer.from_pretrained(folder)


def test_kl_and_agreement_are_those_of_the_definition() -> None:
    """In one pass over every window, with a plain double loop as the reference."""
    model, teacher = random_model("llama"), random_model("qwen2")
    result = measure(model, Tokens("text", IDS), seq_len=16, max_tokens=100, teacher=teacher)
    kl = nats = theirs = same = 0.0
    with torch.no_grad():
        for start in range(0, 96, 16):
            row = torch.from_numpy(IDS[start : start + 17])
            p, q = (m(row[None, :-1]).logits[0].double().softmax(-1) for m in (teacher, model))
            for position in range(16):
                target = row[position + 1]
                nats -= q[position, target].log().item()
                theirs -= p[position, target].log().item()
                kl += (p[position] * (p[position] / q[position]).log()).sum().item()
                same += float(p[position].argmax() == q[position].argmax())
    assert result.tokens == 96
    assert result.loss == pytest.approx(nats / 96, abs=1e-5)
    assert result.teacher_loss == pytest.approx(theirs / 96, abs=1e-5)
    assert result.kl == pytest.approx(kl / 96, abs=1e-5)
    assert result.agreement == same / 96


def test_a_model_is_at_no_distance_from_itself() -> None:
    model = random_model("llama")
    result = evaluate_model(model, IDS, teacher=model, lengths=(32, 64), max_tokens=128)
    assert [item.seq_len for item in result.losses] == [32, 64]
    for item in result.losses:
        assert item.kl == pytest.approx(0, abs=1e-7)
        assert item.agreement == 1
        assert item.bits_per_byte is None


def test_a_hybrid_in_memory_is_that_of_transformers() -> None:
    """Also that its mode is restored, and that it can be trained afterwards."""
    model = build(architecture("GW", vocab_size=61)).train()
    wrapped = NasForCausalLM.wrap(model, NasConfig(model.architecture.to_dict()))
    result = evaluate_model(model, torch.from_numpy(IDS), lengths=(16,), max_tokens=64)
    assert model.training
    assert result == evaluate_model(wrapped, IDS, lengths=(16,), max_tokens=64)
    ids = torch.from_numpy(IDS[:33])[None]
    sum(model.loss(ids[:, :-1], ids[:, 1:])).backward()


def test_a_teacher_with_another_vocabulary_is_refused() -> None:
    teacher = random_model("llama", vocab_size=67)
    with pytest.raises(UserError, match="predicts 67 tokens, the model 61"):
        evaluate_model(random_model("llama"), IDS, teacher=teacher, lengths=(16,))


@pytest.mark.parametrize("family", ["llama", "mistral", "hybrid"])
def test_greedy_tokens_are_those_without_cache(family: str) -> None:
    model: Any
    if family == "hybrid":
        hybrid = build(architecture("GWF", vocab_size=61, num_layers=3))
        model = NasForCausalLM.wrap(hybrid, NasConfig(hybrid.architecture.to_dict()))
    else:
        model = random_model(family)
    prompts = [list(map(int, IDS[i : i + 12])) for i in range(3)]
    result = greedy(model.eval(), prompts, 7)
    with torch.no_grad():
        for row, prompt in zip(result, prompts, strict=True):
            ids = list(prompt)
            for _ in range(7):
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            assert row.tolist() == ids[12:]


@pytest.mark.parametrize("task", TASKS)
def test_prompts_hide_the_answer_at_their_depth(task: str, tokenizer: Any) -> None:
    text = Tokens("text", np.array(tokenizer("a b c d e f g h i " * 200)["input_ids"]))
    arguments = {"length": 400, "number": 10, "seed": 3}
    prompts, new_tokens = draw_prompts(task, text, tokenizer, **arguments)
    assert (prompts, new_tokens) == draw_prompts(task, text, tokenizer, **arguments)
    assert prompts != draw_prompts(task, text, tokenizer, **{**arguments, "seed": 4})[0]
    assert {len(prompt.ids) for prompt in prompts} == {400 - new_tokens}
    assert [prompt.depth for prompt in prompts] == [0.1, 0.3, 0.5, 0.7, 0.9] * 2
    for prompt in prompts:
        words = tokenizer.decode(prompt.ids)
        assert prompt.answer in words
        assert len(tokenizer(f" {prompt.answer}")["input_ids"]) < new_tokens
    shares = [tokenizer.decode(p.ids).index(p.answer) / len(tokenizer.decode(p.ids)) for p in prompts[:5]]
    assert shares == sorted(shares)


def test_only_the_first_number_counts(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Tokens("text", np.array(tokenizer("a b c d e f g h i " * 200)["input_ids"]))
    prompts, new_tokens = draw_prompts("pass_key", text, tokenizer, length=300, number=4, seed=0)
    key = prompts[0].answer
    said = [f" {key}. Remember", f" {key}1", f" not {prompts[2].answer}", f"\n{prompts[3].answer}"]

    def answers(model: Any, rows: list[tuple[int, ...]], count: int) -> list[list[int]]:
        return [tokenizer(said[[p.ids for p in prompts].index(row)])["input_ids"] for row in rows]

    monkeypatch.setattr("studies.evaluation.retrieval.greedy", answers)
    assert retrieve(random_model("llama"), prompts, new_tokens, tokenizer) == [True, False, False, True]


def test_retrieval_is_relative_to_the_teacher(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that always knows, and a model that knows every second key."""
    model, teacher = (random_model("llama", vocab_size=320) for _ in range(2))
    text = Tokens("text", np.array(tokenizer("a b c d e f g h i " * 200)["input_ids"]))
    drawn, _ = draw_prompts("pass_key", text, tokenizer, length=240, number=10, seed=0)
    keys = [(prompt.ids, prompt.answer) for prompt in drawn]

    def answers(which: Any, rows: list[tuple[int, ...]], count: int) -> list[list[int]]:
        known = dict(keys[::2] if which is model else keys)
        return [tokenizer(f" {known.get(row, 'none')}")["input_ids"] for row in rows]

    monkeypatch.setattr("studies.evaluation.retrieval.greedy", answers)
    result = evaluate_model(
        model, text, teacher=teacher, tokenizer=tokenizer, lengths=(240,), max_tokens=240, prompts=10
    )
    first, second = result.retrieval
    assert (first.task, first.accuracy, first.teacher_accuracy, first.relative) == ("pass_key", 0.5, 1, 0.5)
    assert first.by_depth == {"0.1": 0.5, "0.3": 0.5, "0.5": 0.5, "0.7": 0.5, "0.9": 0.5}
    assert (second.task, second.teacher_accuracy, second.relative) == ("key_value", 0, None)


def test_lengths_that_leave_no_filler_are_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="too short for retrieval"):
        draw_prompts("pass_key", Tokens("text", IDS), tokenizer, length=64, number=1, seed=0)
    with pytest.raises(UserError, match="are needed between"):
        draw_prompts("pass_key", Tokens("text", IDS), tokenizer, length=4096, number=1, seed=0)


def test_pass_keys_have_five_digits() -> None:
    draw = random.Random(0)
    assert all(len(pass_key(draw).answer) == 5 for _ in range(100))


def test_it_is_imported_without_optuna() -> None:
    code = "import sys; import studies.evaluation.evaluation; assert 'optuna' not in sys.modules"
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_the_loss_is_cross_entropy() -> None:
    model = random_model("llama")
    result = evaluate_model(model, IDS, lengths=(32,), max_tokens=32)
    with torch.no_grad():
        row = torch.from_numpy(IDS[:33])
        loss = F.cross_entropy(model(row[None, :-1]).logits[0], row[1:])
    assert result.losses[0].loss == pytest.approx(loss.item(), abs=1e-6)
