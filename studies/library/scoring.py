"""Scoring the replacements of a library, one part at a time in the original model."""

from __future__ import annotations

import math
from collections.abc import Callable

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
from studies.library.perturbation import Perturbation
from studies.library.prefix import Prefix
from studies.library.scores import ScoreFile, Scores
from studies.library.text import scored_sequences, scores_folder
from studies.training.devices import to_device
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
    folder = scores_folder(library.path, data, settings)
    with library.lock(should_stop):
        folder.mkdir(parents=True, exist_ok=True)
        file = ScoreFile(folder)
        entries = list(entries_of(parts).values())
        assert not library.missing(entries), "the library is built before it is scored"
        todo = [entry for entry in entries if not file.has(entry)]
        done = len(entries) - len(todo)
        if todo:
            rows = range(scored_sequences(data, settings))
            tokens = to_device(data.batch(rows, settings.seq_len, "val"), teacher.device)
            run = _Run(teacher, tokens, Perturbation(folder), should_stop)
            for entry in sorted(todo, key=lambda entry: entry.layer):
                file.add(entry, run.score(entry, parts, library))
                done += 1
                progress("scoring replacements", done, len(entries))
        scores = file.scores(parts)
    assert scores is not None, "all are scored now"
    return scores


class _Run:
    """The original model on the scored text: its outputs, and its states at the layer that is scored."""

    def __init__(
        self, teacher: Teacher, tokens: Tensor, perturbation: Perturbation, should_stop: Callable[[], bool]
    ) -> None:
        self.teacher, self.should_stop, self.perturbation = teacher, should_stop, perturbation
        self.targets = tokens[:, 1:]
        self.prefix = Prefix(teacher, tokens[:, :-1])
        wanted = torch.cat(self._outputs(None))
        self.logits = TeacherLogits(wanted, teacher.model.head.weight)
        perturbation.begin(wanted, self.logits.head)

    def score(self, entry: Entry, parts: Replacements, library: Library) -> list[float]:
        """Return the KL divergence of each sequence, and write the sketch of the replacement."""
        while self.prefix.layer < entry.layer:
            self.prefix.advance()
        architecture = parts.architecture(dict([entry.key]))
        block = replaced_block(self.teacher, architecture, entry, library)
        hidden = torch.cat(self._outputs(block))
        result = compare(hidden, self.logits, self.targets)
        values: list[float] = result.kl.double().mean(1).tolist()
        if not all(map(math.isfinite, values)):
            rule = "makes the model's predictions NaN or infinite"
            problem = Problem(entry.key[0], entry.label, rule, "leave it out of the space")
            raise UserError("can't score a replacement", [problem])
        self.perturbation.write(entry, hidden, result.change)
        return values

    def _outputs(self, block: nn.Module | None) -> list[Tensor]:
        outputs = []
        for hidden in self.prefix.outputs(block):
            if self.should_stop():
                raise Interrupted
            outputs.append(hidden.float())
        return outputs
