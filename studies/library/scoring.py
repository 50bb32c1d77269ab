"""Scoring the replacements of a library, one part at a time in the original model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from search_spaces.library import LibrarySettings
from search_spaces.replacements import Replacements
from studies.data import TokenData
from studies.healing.teacher import Teacher
from studies.library.assemble import replaced_block
from studies.library.divergence import TeacherLogits, compare
from studies.library.entries import Entry, entries_of
from studies.library.library import Library
from studies.library.passages import SCORED, Passages, answer_passages, asked, means, text_passages
from studies.library.perturbation import Perturbation
from studies.library.prefix import Prefix
from studies.library.scores import ScoreFile, Scores
from studies.library.text import answers_folder, scored_sequences, scores_folder
from studies.training.loop import Interrupted
from surgery.config.problems import Problem, UserError


def score(
    library: Library,
    teacher: Teacher,
    parts: Replacements,
    data: TokenData,
    settings: LibrarySettings,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Scores:
    """Measure KL(teacher || teacher with one part replaced) for every replacement of a space.

    Each score is written with its sketch (`studies.library.sketch`) as soon as it is known, so that an
    interrupted scoring resumes with the next one. States of the text at the input of one layer are in memory,
    and logits of some tokens at a time.

    Args:
        library: with all replacements of the space.
        teacher: the original model.
        parts: the space.
        data: tokens by the model's own tokenizer, of which held-out ones are used.
        settings: number and length of the sequences.
        progress: called with (stage, done, total).
        should_stop: asked before every batch.

    Raises:
        Interrupted: `should_stop` returned True.
        UserError: too little held-out text, a replacement that breaks the model, or the library can't be
            read or written.
    """
    entries = list(entries_of(parts).values())
    with library.lock(should_stop):
        assert not library.missing(entries), "the library is built before it is scored"

        def scored(folder: Path, passages: Callable[[], Passages], stage: str) -> ScoreFile:
            folder.mkdir(parents=True, exist_ok=True)
            file = ScoreFile(folder)
            todo = [entry for entry in entries if not file.has(entry)]
            if todo:
                run = _Run(teacher, passages(), Perturbation(folder), should_stop)
                for done, entry in enumerate(sorted(todo, key=lambda entry: entry.layer), 1):
                    file.add(entry, run.score(entry, parts, library))
                    progress(stage, len(entries) - len(todo) + done, len(entries))
            return file

        def text() -> Passages:
            return text_passages(data, range(scored_sequences(data, settings)), settings, teacher.device)

        def answers() -> Passages:
            drawn = asked(teacher, data, settings, settings.score_prompts, SCORED)
            return answer_passages(teacher, drawn, settings)

        kl = scored(scores_folder(library.path, data, settings), text, "scoring replacements").scores(parts)
        assert kl is not None, "all are scored now"
        if not settings.score_prompts:
            return Scores(kl)
        retrieval = scored(answers_folder(library.path, settings), answers, "scoring retrieval")
        return Scores(kl, retrieval.scores(parts))


class _Run:
    """The original model on the scored text: its outputs, and its states at the layer that is scored."""

    def __init__(
        self, teacher: Teacher, passages: Passages, perturbation: Perturbation,
        should_stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.teacher, self.should_stop, self.perturbation = teacher, should_stop, perturbation
        self.passages = passages
        self.prefix = Prefix(teacher, passages.tokens[:, :-1])
        wanted = self._outputs(None)
        self.logits = TeacherLogits(wanted[None], teacher.model.head.weight)
        perturbation.begin(wanted, self.logits.head)

    def score(self, entry: Entry, parts: Replacements, library: Library) -> list[float]:
        """Return the KL divergence of each sequence, and write the sketch of the replacement."""
        while self.prefix.layer < entry.layer:
            self.prefix.advance()
        architecture = parts.architecture(dict([entry.key]))
        block = replaced_block(self.teacher, architecture, entry, library)
        hidden = self._outputs(block)
        result = compare(hidden[None], self.logits, self.passages.targets[None])
        values = means(result.kl[0], self.passages.sizes)
        if not all(map(math.isfinite, values)):
            rule = "makes the model's predictions NaN or infinite"
            problem = Problem(entry.key[0], entry.label, rule, "leave it out of the space")
            raise UserError("can't score a replacement", [problem])
        self.perturbation.write(entry, hidden, result.change[0])
        return values

    def _outputs(self, block: nn.Module | None) -> Tensor:
        """Return the normed outputs (m, d) in float32 where predictions count."""
        outputs, start = [], 0
        for hidden in self.prefix.outputs(block):
            if self.should_stop():
                raise Interrupted
            outputs.append(hidden[self.passages.counted[start : start + len(hidden)]].float())
            start += len(hidden)
        return torch.cat(outputs)
