"""A pretrained model as a worker needs it: a library built and scored, designs assembled and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from search_spaces import SearchSpace
from search_spaces.pretrained import ModelSection
from studies.data import TokenData
from studies.healing.saved import weights_hash
from studies.healing.teacher import Teacher
from studies.library.assemble import assemble
from studies.library.build import build
from studies.library.library import Library, library_folder, library_key
from studies.library.measure import measure
from studies.library.scores import Score, Scores, write_scores
from studies.library.scoring import score
from studies.library.sketch import read_sketch
from studies.library.text import answers_folder, samples, scores_folder
from studies.search.designs import DesignChooser
from studies.search.prediction import Scored
from studies.study import Study
from studies.training.loop import Interrupted
from studies.workers.progress import Report, Stages
from surgery.apply.source import SourceModel, read_source
from surgery.architecture import Architecture
from surgery.config.problems import Problem, UserError
from surgery.model import HybridLM

Log = Callable[[str], None]


def model_section(model: str) -> ModelSection:
    """Read a checkpoint's config and fingerprint.

    Raises:
        UserError: it can't be read.
    """
    source = read_source(model)
    name = source.hub_id or str(Path(source.folder).resolve())
    return ModelSection(name, weights_hash(source), source.architecture)


class Designs:
    """Assembles and measures designs of a space over a pretrained model."""

    def __init__(
        self, space: SearchSpace, teacher: Teacher, library: Library, data: TokenData, scores: Scores
    ) -> None:
        assert space.replacements is not None
        assert space.library is not None
        self.space, self.teacher, self.library, self.data, self.scores = space, teacher, library, data, scores
        self.replacements, self.settings = space.replacements, space.library

    @classmethod
    def open(
        cls, study: Study, data: TokenData, device: torch.device, report: Report,
        should_stop: Callable[[], bool], log: Log,
    ) -> Designs:  # fmt: skip
        """Open the model and its library; build and score what is missing.

        Only one process builds a library at a time; the others wait for it.

        Raises:
            UserError: the model can't be read or is another one than the study's, or the library's folder
                can't be used.
            KeyboardInterrupt: asked to stop; what is built is kept.
        """
        space = study.space
        assert space.model is not None
        assert space.library is not None
        assert space.replacements is not None
        source = _open(space.model)
        teacher = Teacher(source, device)
        key = library_key(space.model.architecture, space.model.weights, data.content_hash, space.library)
        library = Library.open(library_folder(key), key)

        progress = Stages(report)
        parts, settings = space.replacements, space.library
        try:
            build(library, source, parts, data, settings, device, progress, should_stop)
            log(f"the library {library.path} is built")
            scores = score(library, teacher, parts, data, settings, progress, should_stop)
        except Interrupted:
            raise KeyboardInterrupt from None
        write_scores(study.folder, scores)
        return cls(space, teacher, library, data, scores)

    @property
    def stretches(self) -> int:
        """Number of stretches of held-out text, on each of which a design can be measured once."""
        return samples(self.data, self.settings)

    def chooser(self, space: SearchSpace) -> DesignChooser:
        """Return the chooser of the next design, by these scores and the costs of the space."""
        text = self._scored(self.scores.kl, scores_folder(self.library.path, self.data, self.settings))
        if self.scores.retrieval is None:
            return DesignChooser(space, text)
        folder = answers_folder(self.library.path, self.settings)
        return DesignChooser(space, text, self._scored(self.scores.retrieval, folder))

    def _scored(self, scores: Mapping[tuple[str, str], Score], folder: Path) -> Scored:
        keys, features = read_sketch(folder, self.replacements)
        sketches = dict(zip(keys, features, strict=True))
        return Scored({key: item.mean for key, item in scores.items()}, sketches)

    def assemble(self, architecture: Architecture) -> HybridLM:
        """Return a design of the space, whose tensors are the library's and the original model's own."""
        choice = self.replacements.choice(architecture)
        assert choice is not None, "trials are designs of the space"
        return assemble(self.teacher, self.replacements, choice, self.library)

    def measure(
        self, architecture: Architecture, sample: int, should_stop: Callable[[], bool]
    ) -> dict[str, float]:
        """Return the measured metrics of a design of the space.

        Args:
            architecture: the design.
            sample: which stretch of the held-out text; 0 for a design's first measurement.
            should_stop: asked before every batch.

        Raises:
            Interrupted: `should_stop` returned True.
        """
        model = self.assemble(architecture)
        return measure(model, self.teacher, self.data, self.settings, sample, should_stop)


def _open(model: ModelSection) -> SourceModel:
    source = read_source(model.name)
    weights = weights_hash(source)
    if weights != model.weights:
        rule = f"has the fingerprint {weights}, the study's model {model.weights}"
        hint = "give the study's model this path, or start a new study under another --name"
        raise UserError("not this study's model", [Problem("model", model.name, rule, hint)])
    return source
