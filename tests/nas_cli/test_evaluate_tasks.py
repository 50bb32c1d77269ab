"""lm-evaluation-harness on model folders: a local task, checked question by question."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import Result

Nas = Callable[..., Result]
QUESTIONS = [
    {"question": "The module is", "choices": [" imported", " eaten"], "answer": 0},
    {"question": "A list has", "choices": [" no items", " items", " blue"], "answer": 1},
    {"question": "Call the", "choices": [" function", " xyzzy"], "answer": 0},
    {"question": "Return", "choices": [" qq", " the value"], "answer": 1},
]
needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs nas-cli[lm-eval]")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A multiple-choice task and one that generates, of the same questions, and a YAML file for each."""
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in QUESTIONS), encoding="utf-8")
    common = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
num_fewshot: 0
metadata: {{version: 1}}
"""
    (tmp_path / "choose.yaml").write_text(
        f"task: local_choices\noutput_type: multiple_choice\n{common}"
        'doc_to_text: "{{question}}"\ndoc_to_choice: choices\ndoc_to_target: answer\ntarget_delimiter: ""\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
        encoding="utf-8",
    )
    (tmp_path / "continue.yaml").write_text(
        f"task: local_text\noutput_type: generate_until\n{common}"
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{choices[answer]}}"\n'
        "generation_kwargs: {until: ['.'], max_gen_toks: 6, do_sample: false}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
        encoding="utf-8",
    )
    return tmp_path


@pytest.mark.slow
@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_a_local_task_gives_the_likeliest_choices(
    nas: Nas,
    model_folder: Path,
    llama_folder: Path,
    prepared: Path,
    task: Path,
) -> None:
    """Against likelihoods that are added up here, for a hybrid of ours and a Llama of transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = {}
    for folder in (model_folder, llama_folder):
        model, tokenizer = (item.from_pretrained(folder) for item in (AutoModelForCausalLM, AutoTokenizer))
        right = 0
        for item in QUESTIONS:
            scores = []
            for choice in item["choices"]:  # type: ignore[attr-defined]
                start = len(tokenizer(item["question"]).input_ids)
                ids = torch.tensor(tokenizer(f"{item['question']}{choice}").input_ids)
                with torch.no_grad():
                    logits = model(ids[None, :-1]).logits[0]
                scores.append(-F.cross_entropy(logits[start - 1 :], ids[start:], reduction="sum").item())
            right += scores.index(max(scores)) == item["answer"]
        expected[folder] = right / len(QUESTIONS)
    text = ("--data", prepared, "--tokens", 64, "--seq-len", 32, "--device", "cpu")
    tasks = f"{task / 'choose.yaml'},{task / 'continue.yaml'}"
    arguments = ("eval", model_folder, "--against", llama_folder, "--tasks", tasks, *text)
    scores = json.loads(nas(*arguments, "--json").stdout)["tasks"]
    by_name = {(item["task"], item["metric"]): item for item in scores}
    choices = by_name["local_choices", "acc"]
    assert (choices["value"], choices["samples"], choices["few_shot"]) == (expected[model_folder], 4, 0)
    assert choices["teacher_value"] == expected[llama_folder]
    assert ("local_text", "exact_match") in by_name
    assert "local_choices" in nas(*arguments, "--limit", 2).stdout


@pytest.mark.slow
@needs_harness
def test_tasks_that_do_not_exist_are_named(nas: Nas, llama_folder: Path, task: Path) -> None:
    result = nas("eval", llama_folder, "--tasks", f"no_such_task,{task / 'missing.yaml'}")
    assert result.exit_code == 2
    for name in ("no_such_task", "missing.yaml"):
        assert name in str(result.exception)


def test_without_the_harness_the_extra_is_named(
    nas: Nas,
    llama_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("studies.evaluation.tasks.find_spec", lambda name: None)
    result = nas("eval", llama_folder, "--tasks", "arc_easy")
    assert result.exit_code == 2
    assert "nas-cli[lm-eval]" in str(result.exception)
