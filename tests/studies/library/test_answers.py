"""Scores at the answers of retrieval prompts are divergences of whole models at these tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search_spaces.replacements import Replacements
from studies.data import TokenData
from studies.healing.teacher import Teacher
from studies.library.assemble import assemble
from studies.library.library import Library
from studies.library.measure import measure
from studies.library.passages import SCORED, answer_passages, asked
from studies.library.scores import read_scores, write_scores
from studies.library.scoring import score
from studies.library.sketch import predicted, read_sketch
from studies.library.text import answers_folder
from surgery.hf.tokenizer import load_tokenizer
from tests.studies.library.conftest import SETTINGS

ASKED = replace(SETTINGS, seq_len=208, score_tokens=416, eval_tokens=416, prompts=3, score_prompts=3)


def test_answers_follow_their_prompts(teacher: Teacher, text: TokenData) -> None:
    tokens, counted = answer_passages(teacher, asked(teacher, text, ASKED, 3, 0), ASKED)
    tokenizer = load_tokenizer(teacher.source.folder)
    assert tokens.shape == (6, 208)
    assert counted.shape == (6, 207)
    for ids, mask in zip(tokens, counted, strict=True):
        (inputs,) = mask.nonzero(as_tuple=True)
        first, last = int(inputs[0]), int(inputs[-1])
        assert last - first + 1 == len(inputs)
        question, answer = tokenizer.decode(ids[: first + 1]), tokenizer.decode(ids[first + 1 : last + 2])
        assert question.endswith(" is")
        assert answer.strip().isdigit()
        assert question.count(answer.strip()) >= 1, "the answer is in the prompt"


def test_scores_are_divergences_at_the_answers(
    library: Library, teacher: Teacher, parts: Replacements, text: TokenData, tmp_path: Path
) -> None:
    scores = score(library, teacher, parts, text, ASKED)
    assert scores.retrieval is not None
    assert scores.retrieval.keys() == scores.kl.keys()
    tokens, counted = answer_passages(teacher, asked(teacher, text, ASKED, 3, SCORED), ASKED)

    def log_probabilities(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return (model(tokens[:, :-1]).double() @ model.head.weight.double().T).log_softmax(-1)

    wanted = log_probabilities(teacher.model)
    for name, label in (("layer.1.mixer", "G"), ("layer.2.mixer", "W16+2"), ("layer.1.ffn", "none")):
        ours = log_probabilities(assemble(teacher, parts, {name: label}, library).float())
        kl = (wanted.exp() * (wanted - ours)).sum(-1)
        each = [kl[row][counted[row]].mean().item() for row in range(6)]
        assert scores.retrieval[name, label].mean == pytest.approx(np.mean(each), rel=1e-3), label
        assert scores.retrieval[name, label].mean > 1e-6
    names, features = read_sketch(answers_folder(library.path, ASKED), parts)
    for index, key in enumerate(names):
        assert predicted(features, [index]) == pytest.approx(scores.retrieval[key].mean, rel=0.5, abs=1e-4)
    write_scores(tmp_path, scores)
    assert read_scores(tmp_path, parts) == scores


def test_designs_are_measured_at_the_answers(
    library: Library, teacher: Teacher, parts: Replacements, text: TokenData
) -> None:
    same = measure(assemble(teacher, parts, {}, library), teacher, text, ASKED)
    assert same["retrieval_kl"] == pytest.approx(0, abs=1e-6)
    worse = measure(assemble(teacher, parts, {"layer.1.ffn": "none"}, library), teacher, text, ASKED)
    assert worse["retrieval_kl"] > 1e-3
    assert worse["retrieval_kl_se"] > 0
    other = measure(assemble(teacher, parts, {"layer.1.ffn": "none"}, library), teacher, text, ASKED, 1)
    assert other["retrieval_kl"] != worse["retrieval_kl"], "other prompts"
