"""A search as it is asked for: checked, given its text, started or resumed, and handed to its workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from search_spaces import SearchSpace
from studies.data import TokenData
from studies.data.corpora import located
from studies.data.tokenizers import located_tokenizer
from studies.files.defaults import DEFAULT_RUNS, DEFAULT_SAMPLER, DEFAULT_STOPPING, DEFAULT_TRIALS
from studies.search.samplers import check_sampler
from studies.search.stopping_rules import check_stopping_rule
from studies.storage.attributes import ATTRIBUTE
from studies.study import Study
from studies.study.lookup import check_new, find_here
from studies.study.settings import MILP, StudySettings
from studies.training.batches import check_data
from studies.training.compilation import check_compile
from studies.training.cores import check_workers
from studies.training.devices import check_memory, pick_device
from studies.training.threads import choose_threads
from studies.workers.crew import most_lanes
from studies.workers.proxy import prepare_for, train_settings
from studies.workers.supervisor import Supervisor
from surgery.config.problems import Problem, UserError


@dataclass(frozen=True)
class SearchRequest:
    """Options of a search. They are those of `nas search`, and None means the same default.

    Attributes:
        space: the space to search.
        name: name of the study; None: the space's, or the last part of the pretrained model's.
        trials: trained architectures that the study shall have, including earlier ones.
        timeout: most seconds of this run.
        workers: parallel training processes.
        lanes: trainings at a time in each of them; None: on a GPU as many as pay, else one.
        data, tokenizer: text and tokenizer; None: the space's.
        threads: CPU threads per worker; None: by a rule (`choose_threads`).
        runs: folder that holds the studies.
        storage: URL of a database; None: a journal in the study's folder.
    """

    space: SearchSpace
    name: str | None = None
    trials: int = DEFAULT_TRIALS
    timeout: float | None = None
    workers: int = 1
    lanes: int | None = 1
    data: str | None = None
    tokenizer: str | None = None
    sampler: str = DEFAULT_SAMPLER
    stopping: str = DEFAULT_STOPPING
    seed: int = 0
    device: str = "auto"
    compile: str = "auto"
    cpu_precision: str | None = None
    threads: int | None = None
    runs: Path = DEFAULT_RUNS
    storage: str | None = None

    @property
    def chosen_sampler(self) -> str:
        """The sampler: over a pretrained model the default is the solver."""
        default = self.space.model is not None and self.sampler == DEFAULT_SAMPLER
        return MILP if default else self.sampler

    @property
    def study_name(self) -> str:
        """Name of the study."""
        if self.name is not None:
            return self.name
        model = self.space.model
        return self.space.name if model is None else Path(model.name).name

    def check(self) -> None:
        """Check everything that can be checked before the text is read.

        Raises:
            UserError: an option is not valid, or this machine can't train the space's baselines.
        """
        check_new(self.study_name, self.runs, self.storage)
        check_sampler(self.sampler)
        if self.sampler == MILP and self.space.model is None:
            problem = Problem(
                "sampler", MILP, "solves for replacements in a pretrained model", "give --model"
            )
            raise UserError("the sampler does not suit this space", [problem])
        check_stopping_rule(self.stopping)
        device = pick_device(self.device)
        check_compile(self.compile, device)
        check_workers(self.workers)
        most_lanes(self.space, device, self.lanes)
        baselines = {f"baseline {name}": item for name, item in self.space.baselines.items()}
        check_memory(baselines, device, self.space.proxy.optimizer)

    def prepare(self, progress: Callable[[int, int, int | None], None] | None = None) -> TokenData:
        """Return the study's tokens, prepared if they are not yet.

        Args:
            progress: called with documents, tokens, and the number of tokens wanted, if known.

        Raises:
            UserError: the text can't be read, or does not suit the space.
        """
        tokens = prepare_for(self.space, self._corpus, self._tokenizer, progress)
        check_data(tokens, train_settings(self.space, 0), self.space.backbone.vocab_size)
        return tokens

    def open(self, tokens: TokenData) -> tuple[Study, bool]:
        """Create the study or resume it. One that exists keeps its settings; asking for others is refused.

        Returns:
            (study, whether it existed before).

        Raises:
            UserError: it exists with other settings, or its folder or storage can't be used.
        """
        settings = self.settings(tokens.content_hash, str(tokens.folder.resolve()))
        return Study.create_or_resume(
            self.study_name, self.space, settings, self.runs, self.storage, self._unasked
        )

    def existing(self) -> Study | None:
        """Return the study that would be resumed; None if a new one would be started. Nothing is written.

        Raises:
            UserError: it exists with another space or other settings, or its folder or storage can't be used.
        """
        folder = check_new(self.study_name, self.runs, self.storage)
        stored = find_here(folder, self.storage)
        if stored is None or ATTRIBUTE not in stored.inner.user_attrs:
            return None
        study = Study.open(self.study_name, self.runs, self.storage)
        # the text is not prepared, so that its hash is not known: it is the study's if its name is
        settings = self.settings(study.settings.data_hash, study.settings.data_folder)
        kept = {key: getattr(study.settings, key) for key in self._unasked}
        study.refuse_changes(self.space, replace(settings, **kept))
        return study

    def settings(self, data_hash: str, data_folder: str) -> StudySettings:
        """Return the settings of a new study over a text."""
        return StudySettings(
            seed=self.seed,
            sampler=self.chosen_sampler,
            stopping=self.stopping,
            corpus=self._corpus,
            tokenizer=self._tokenizer,
            data_hash=data_hash,
            data_folder=data_folder,
            compile=self.compile,
            cpu_precision=self.cpu_precision or StudySettings.cpu_precision,
            threads=choose_threads(self.threads, self.space.backbone, self.workers),
        )

    def supervise(self, study: Study) -> Supervisor:
        """Return a supervisor of the study's workers; its `watch` starts them."""
        return Supervisor(
            study,
            workers=self.workers,
            target=self.trials,
            device=self.device,
            timeout=self.timeout,
            lanes=self.lanes,
        )

    @property
    def _unasked(self) -> list[str]:
        """Settings that are defaults for a new study only."""
        return [name for name in ("cpu_precision", "threads") if getattr(self, name) is None]

    @property
    def _corpus(self) -> str:
        return located(self.data or self.space.data.corpus)

    @property
    def _tokenizer(self) -> str:
        return located_tokenizer(self.tokenizer or self.space.data.tokenizer)
