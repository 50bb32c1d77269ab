"""A study: a folder and an Optuna storage that hold a space, its trials and how they were run.

runs/NAME/  space.yaml   as given
            journal.log  Optuna's storage (or storage.url and study.json, where to find another)
            trials/N/    architecture.yaml, curve.jsonl, error.txt
            workers/     leases of the live workers
            front.json   the front, rewritten as trials end
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from search_spaces import SearchSpace, parse_space
from studies.data.corpora import located
from studies.data.tokenizers import located_tokenizer
from studies.files.atomic import write_json
from studies.files.curve import read_curve
from studies.files.lock import locked
from studies.storage.addresses import absolute
from studies.storage.attributes import ATTRIBUTE, BASELINE, STOPPED_AT
from studies.storage.journal import Embedded
from studies.storage.opening import JOURNAL, mendable, open_storage
from studies.storage.optuna_access import batched_writes, stored_trial
from studies.study.creation import (
    create,
    foreign,
    making,
    new_mark,
    refuse_occupied,
    remove_cut_off,
    staged_journal,
    unmaking,
    where,
    write_space,
)
from studies.study.location import Home, stored_url
from studies.study.lookup import Found, check_new, embedded, find, find_here, forget, remember
from studies.study.names import DEFAULT_RUNS, check_name, locate
from studies.study.replicates import mean_over_runs
from studies.study.rules import changed_rules, rules_of
from studies.study.settings import FIXED, StudySettings
from studies.study.trial_record import STOPPED, TrialRecord, front_records
from surgery.config.problems import Problem, UserError

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """An open study. Make one with `create`, `open` or `create_or_resume`."""

    def __init__(
        self, folder: Path, space: SearchSpace, settings: StudySettings, inner: optuna.Study, url: str | None
    ) -> None:
        self.folder, self.space, self.settings, self.inner, self.url = folder, space, settings, inner, url
        self.name = folder.name
        self.found = Found(inner, url)
        self._records: list[TrialRecord] = []  # as they were last read
        self._open: set[int] = set()  # numbers of those that run or wait
        self._stopped: dict[int, FrozenTrial] = {}  # others that have stopped, as they were then, by number

    @classmethod
    def open(cls, name: str, runs: Path = DEFAULT_RUNS, url: str | None = None) -> Study:
        """An existing study, by name or by its folder's path.

        Raises:
            UserError: there is none, it can't be read, or nas did not make it.
        """
        folder = locate(name, runs)
        with mendable(folder):
            found = find(folder, url, runs)
            if ATTRIBUTE not in found.inner.user_attrs:
                raise foreign(found.inner, where(folder, found.url))
            return cls._of(folder, found)

    @classmethod
    def _of(cls, folder: Path, found: Found) -> Study:
        """A complete study that was found."""
        stored = found.inner.user_attrs[ATTRIBUTE]
        space = parse_space(stored["space"], f"{folder.name}.yaml")
        known = {item.name for item in fields(StudySettings)}
        settings = StudySettings(**{key: value for key, value in stored.items() if key in known})
        study = cls(folder, space, settings, found.inner, found.url)
        study.found = found
        return study

    @classmethod
    def create(
        cls,
        name: str,
        space: SearchSpace,
        settings: StudySettings,
        runs: Path = DEFAULT_RUNS,
        url: str | None = None,
    ) -> Study:
        """A new study, its baselines queued first; no folder is left behind when that fails.

        Raises:
            UserError: the name or the sampler is none, something is there already, or folder or storage can't
                be written.
        """
        check_name(name)
        url = None if url is None else absolute(url)
        folder = locate(name, runs)
        with making(folder):
            return cls._create(folder, space, settings, url)

    @classmethod
    def _create(cls, folder: Path, space: SearchSpace, settings: StudySettings, url: str | None) -> Study:
        settings = replace(settings, rules=rules_of(space))
        if stored_url(folder) is not None or embedded(folder) is not None:
            raise DuplicatedStudyError
        refuse_occupied(folder, space.text)
        mark, content = new_mark(), {"space": space.text, **asdict(settings)}
        if url is None:
            with staged_journal(folder) as stage:
                journal = Embedded(stage / JOURNAL)
                with journal.batch():
                    start(journal, folder.name, space, settings, mark).set_user_attr(ATTRIBUTE, content)
            inner = optuna.load_study(study_name=folder.name, storage=open_storage(folder, None))
        else:
            storage = open_storage(folder, url)
            # first of all: were this process killed, the next one knows what is its own to make again
            Home(folder.name, mark["id"], str(folder.resolve())).write(folder, url)
            with unmaking(storage, folder.name, mark["id"]):
                inner = start(storage, folder.name, space, settings, mark)
                inner.set_user_attr(ATTRIBUTE, content)
        write_space(folder, space.text)
        return cls(folder, space, settings, inner, url)

    @classmethod
    def create_or_resume(
        cls,
        name: str,
        space: SearchSpace,
        settings: StudySettings,
        runs: Path = DEFAULT_RUNS,
        url: str | None = None,
        unasked: Collection[str] = (),
    ) -> tuple[Study, bool]:
        """(study, whether it was there before). Settings named in `unasked` are defaults of a new study; one
        that was there keeps its own.

        Raises:
            UserError: it is there with another space, other settings or another storage; every difference
                is named. Or nas did not make it.
        """
        folder = check_new(name, runs, url)
        with making(folder):
            found = find_here(folder, url)
            if found is not None and ATTRIBUTE in found.inner.user_attrs:
                study = cls._of(folder, found)
                kept = {key: getattr(study.settings, key) for key in unasked}
                study.refuse_changes(space, replace(settings, **kept))
                remember(folder, found, space.text)
                return study, True
            if found is not None:
                home = Home.read(folder)
                remove_cut_off(found.inner, "" if home is None else home.id, where(folder, found.url))
                url = found.url
            else:
                url = stored_url(folder) if url is None else absolute(url)
            forget(folder)
            return cls._create(folder, space, settings, url), False

    @property
    def remark(self) -> str:
        """What its user should know of its folder; empty if there is nothing."""
        return self.found.remark

    def join(self) -> None:
        """Note in the folder, which may be new on this machine, where the study is. Not inside `exclusive`.

        Raises:
            UserError: the folder can't be written, or holds a file of somebody else's that would be replaced.
        """
        with mendable(self.folder), self.exclusive():
            if not self.found.is_copy:  # else it would no longer say so
                remember(self.folder, self.found, self.space.text)

    def refuse_changes(self, space: SearchSpace, settings: StudySettings) -> None:
        """Raises:
        UserError: `space` or `settings` differ from what the study was started with.
        """
        self.refuse_changed_rules()
        changes = [("space", line) for line in self.space.diff(space)]
        for key in FIXED:
            old, new = getattr(self.settings, key), getattr(settings, key)
            if key in ("corpus", "tokenizer"):  # older studies keep a path as it was typed
                old = located(old) if key == "corpus" else located_tokenizer(old)
            if old != new:
                changes.append((key, f"{old} -> {new}"))
        if changes:
            hint = "a study keeps what it was started with"
            raise UserError(
                f'study "{self.name}" was started differently; give this one another --name, or undo:',
                [
                    Problem(key, None, line, hint if index == 0 else "")
                    for index, (key, line) in enumerate(changes)
                ],
            )

    def refuse_changed_rules(self) -> None:
        """Raises:
        UserError: trials of this version would differ from those that the study has.
        """
        if problems := changed_rules(self.space, self.settings.rules):
            raise UserError(f'study "{self.name}" was started by a version with other rules', problems)

    def records(self) -> list[TrialRecord]:
        """Every trial, in order; an architecture trained again has the mean of its runs. Finished ones never
        change and are read once."""
        trials = self.inner.get_trials(deepcopy=False)
        # A stopped trial stays as it is until it goes on, and stops elsewhere if it stops again. There may be
        # thousands of them; with the embedded storage each is one object until something is written to it.
        gone_on = [
            number
            for number, trial in self._stopped.items()
            if trials[number] is not trial
            and trials[number].user_attrs[STOPPED_AT] != trial.user_attrs[STOPPED_AT]
        ]
        for number in [*self._open, *gone_on, *range(len(self._records), len(trials))]:
            record = TrialRecord.read(trials[number])
            self._records[number : number + 1] = [record]
            self._open.discard(number)
            self._stopped.pop(number, None)
            if record.state == STOPPED:
                self._stopped[number] = trials[number]
            elif not trials[number].state.is_finished():
                self._open.add(number)
        return mean_over_runs(self._records.copy())

    def record(self, number: int) -> TrialRecord:
        """Raises:
        UserError: no such trial.
        """
        trial = self.trial(number)
        # what runs is read alone: workers ask often
        return self.records()[number] if trial.state.is_finished() else TrialRecord.read(trial)

    def trial(self, number: int) -> FrozenTrial:
        """As it is stored.

        Raises:
            UserError: no such trial.
        """
        try:
            return stored_trial(self.inner, number)
        except KeyError:
            last = len(self.inner.get_trials(deepcopy=False)) - 1
            rule = f"is not a trial of this study, it has 0 to {last}"
            raise UserError("unknown trial", [Problem("trial", number, rule)]) from None

    def front(self) -> list[TrialRecord]:
        """The Pareto front over the finished trials."""
        return front_records(self.records(), self.space.objectives)

    def write_front(self) -> None:
        """Renews front.json. Not inside `exclusive`.

        Raises:
            UserError: the folder can't be written.
        """
        with mendable(self.folder), self.exclusive():
            content = {
                "study": self.name,
                "objectives": {item.name: item.direction for item in self.space.objectives},
                "front": [record.to_dict() for record in self.front()],
            }
            write_json(self.folder / "front.json", content)

    def folder_of(self, number: int) -> Path:
        """Of a trial's files; it may not be there yet."""
        return self.folder / "trials" / f"{number:05d}"

    def trial_folder(self, number: int) -> Path:
        """The same, made where it is not there."""
        folder = self.folder_of(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def workers_folder(self) -> Path:
        return self.folder / "workers"

    def curve(self, number: int) -> list[dict[str, Any]]:
        """Points of a trial's loss curve; empty when it has none here."""
        return read_curve(self.folder_of(number) / "curve.jsonl")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One process of this folder at a time takes a trial or ends one. Not reentrant."""
        with locked(self.folder):
            yield

    def batched_writes(self) -> AbstractContextManager[None]:
        """Group storage writes into one atomic append (embedded storage only). Not reentrant."""
        return batched_writes(self.inner)


def start(
    storage: BaseStorage,
    name: str,
    space: SearchSpace,
    settings: StudySettings,
    mark: dict[str, Any] | None = None,
) -> optuna.Study:
    """Make an Optuna study in a storage, marked from the start, the space's baselines queued first."""
    directions = [
        StudyDirection.MINIMIZE if item.direction == "min" else StudyDirection.MAXIMIZE
        for item in space.objectives
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        create(storage, name, directions, mark)
        inner = optuna.load_study(storage=storage, study_name=name)
        inner.set_metric_names([item.name for item in space.objectives])
    for baseline, architecture in space.baselines.items():
        inner.enqueue_trial(space.params_of(architecture) or {}, user_attrs={BASELINE: baseline})
    return inner
