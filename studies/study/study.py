"""A study: a folder and an Optuna storage that hold a space, its trials and their settings.

runs/NAME/  space.yaml   as given
            journal.log  Optuna's storage (or storage.url and study.json, the location of another)
            trials/N/    architecture.yaml, curve.jsonl, error.txt
            workers/     leases of the live workers
            front.json   the front, rewritten as trials end
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.trial import FrozenTrial

from search_spaces import SearchSpace, parse_space
from studies.files.curve import read_curve
from studies.files.defaults import DEFAULT_RUNS
from studies.files.folder_lock import locked
from studies.files.json_file import write_json
from studies.storage.addresses import absolute
from studies.storage.attributes import ATTRIBUTE
from studies.storage.journal import Embedded
from studies.storage.opening import JOURNAL, explain_storage_errors, open_storage
from studies.storage.optuna_access import batched_writes, stored_trial
from studies.study.block_times import read_times, store_times
from studies.study.changes import refuse_changes
from studies.study.creation import (
    creating,
    deleting_on_error,
    foreign,
    new_mark,
    refuse_occupied,
    remove_cut_off,
    staged_journal,
    start,
    where,
    write_space,
)
from studies.study.location import Home, stored_url
from studies.study.lookup import StoredStudy, check_new, embedded, find, find_here, forget, remember
from studies.study.names import check_name, locate
from studies.study.picks import read_picks
from studies.study.record_cache import RecordCache
from studies.study.rules import changed_rules, rules_of
from studies.study.settings import StudySettings
from studies.study.trial_record import TrialRecord, front_records
from studies.study.trial_table import trial_rows
from surgery.architecture.block_times import BlockTimes
from surgery.config.problems import Problem, UserError

if TYPE_CHECKING:
    from pandas import DataFrame

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """An open study. Make one with `create`, `open` or `create_or_resume`."""

    def __init__(
        self, folder: Path, space: SearchSpace, settings: StudySettings, inner: optuna.Study, url: str | None
    ) -> None:
        self.folder, self._space, self.settings, self.inner, self.url = folder, space, settings, inner, url
        self.name = folder.name
        self.stored = StoredStudy(inner, url)
        self._cache = RecordCache(inner, space.done_word)

    @classmethod
    def open(cls, name: str, runs: Path = DEFAULT_RUNS, url: str | None = None) -> Study:
        """Open an existing study, by name or by its folder's path.

        Raises:
            UserError: there is no such study, it can't be read, or nas did not make it.
        """
        folder = locate(name, runs)
        with explain_storage_errors(folder):
            stored = find(folder, url, name)
            if ATTRIBUTE not in stored.inner.user_attrs:
                raise foreign(stored.inner, where(folder, stored.url))
            return cls._of(folder, stored)

    @classmethod
    def _of(cls, folder: Path, stored: StoredStudy) -> Study:
        """Return a complete stored study, opened."""
        content = stored.inner.user_attrs[ATTRIBUTE]
        space = parse_space(content["space"], f"{folder.name}.yaml")
        known = {item.name for item in fields(StudySettings)}
        settings = StudySettings(**{key: value for key, value in content.items() if key in known})
        study = cls(folder, space, settings, stored.inner, stored.url)
        study.stored = stored
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
        """Create a study, its baselines queued first; if that fails, no folder is left.

        Raises:
            UserError: the name is not valid, the study or its files exist, or folder or storage can't be
                written.
        """
        check_name(name)
        url = None if url is None else absolute(url)
        folder = locate(name, runs)
        with creating(folder):
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
                    start(journal, folder.name, space, mark).set_user_attr(ATTRIBUTE, content)
            inner = optuna.load_study(study_name=folder.name, storage=open_storage(folder, None))
        else:
            storage = open_storage(folder, url)
            # first: if this process is killed, the next one knows which study it may create again
            Home(folder.name, mark["id"], str(folder.resolve())).write(folder, url)
            with deleting_on_error(storage, folder.name, mark["id"]):
                inner = start(storage, folder.name, space, mark)
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
        """Create a study, or open the one that exists.

        Args:
            unasked: names of settings that are only defaults for a new study; an existing one keeps its own.

        Returns:
            (study, whether it existed before).

        Raises:
            UserError: the study exists with another space, other settings or another storage, and every
                difference is named; or nas did not make it.
        """
        folder = check_new(name, runs, url)
        with creating(folder):
            stored = find_here(folder, url)
            if stored is not None and ATTRIBUTE in stored.inner.user_attrs:
                study = cls._of(folder, stored)
                kept = {key: getattr(study.settings, key) for key in unasked}
                study.refuse_changes(space, replace(settings, **kept))
                remember(folder, stored, space.text)
                return study, True
            if stored is not None:
                home = Home.read(folder)
                remove_cut_off(stored.inner, "" if home is None else home.id, where(folder, stored.url))
                url = stored.url
            else:
                url = stored_url(folder) if url is None else absolute(url)
            forget(folder)
            return cls._create(folder, space, settings, url), False

    @property
    def space(self) -> SearchSpace:
        """The space; with the times of its blocks, as soon as a worker has measured them."""
        if not self._space.costs_known and (times := read_times(self.inner)) is not None:
            self._space = self._space.with_times(times)
        return self._space

    def stored_times(self) -> BlockTimes | None:
        """Return the block times that the study has now; None before blocks were timed."""
        return read_times(self.inner)

    def use_times(self, times: BlockTimes, keys: Collection[str]) -> BlockTimes:
        """Store the block times of these keys, unless the study has others, and use what is stored then.

        Not inside `batched_writes`.
        """
        with self.batched_writes():
            store_times(self.inner, times, keys)
        stored = read_times(self.inner)
        assert stored is not None, "just written"
        self._space = self._space.with_times(stored)
        return stored

    @property
    def remark(self) -> str:
        """Remark for the user about the study's folder; empty if there is none."""
        return self.stored.remark

    def join(self) -> None:
        """Record in the folder, which may be new on this machine, where the study is. Not inside `exclusive`.

        Raises:
            UserError: the folder can't be written, or holds a foreign file that would be replaced.
        """
        with explain_storage_errors(self.folder), self.exclusive():
            if not self.stored.is_copy:  # a copy stays recognisable as one
                remember(self.folder, self.stored, self.space.text)

    def refuse_changes(self, space: SearchSpace, settings: StudySettings) -> None:
        """Refuse a space or settings that differ from those that the study was started with.

        Raises:
            UserError: they differ; the fields that do are named.
        """
        self.refuse_changed_rules()
        refuse_changes(self.folder, (self.space, self.settings), (space, settings))

    def refuse_changed_rules(self) -> None:
        """Refuse to train if trials of this version would differ from those of the study.

        Raises:
            UserError: the rules of this version differ from those that the study recorded.
        """
        if problems := changed_rules(self.space, self.settings.rules):
            raise UserError(f'study "{self.name}" was started by a version with other rules', problems)

    def records(self) -> list[TrialRecord]:
        """Return every trial, in order; an architecture with replicates has the mean of its runs.

        Finished trials never change and are read once.
        """
        return self._cache.read()

    def record(self, number: int) -> TrialRecord:
        """Return the record of a trial.

        Raises:
            UserError: the study has no such trial.
        """
        trial = self.trial(number)
        # an unfinished trial is read alone: workers call this often
        if trial.state.is_finished():
            return self.records()[number]
        return TrialRecord.read(trial, self.space.done_word)

    def trial(self, number: int) -> FrozenTrial:
        """Return a trial as it is stored now.

        Raises:
            UserError: the study has no such trial.
        """
        try:
            return stored_trial(self.inner, number)
        except KeyError:
            last = len(self.inner.get_trials(deepcopy=False)) - 1
            rule = f"is not a trial of this study, it has 0 to {last}"
            raise UserError("unknown trial", [Problem("trial", number, rule)]) from None

    def front(self) -> list[TrialRecord]:
        """Return the Pareto front of the finished trials."""
        return front_records(self.records(), self.space.objectives)

    def to_dataframe(self) -> DataFrame:
        """Return every trial as a row: what it is, what was measured, seeds, times, and what was searched.

        The columns are those of `nas export`; see `docs/reference/files.md`.
        """
        import pandas

        trials = self.inner.get_trials(deepcopy=False)
        front = {record.number for record in self.front()}
        picked = {pick.trial for pick in read_picks(self.inner)}
        return pandas.DataFrame(trial_rows(trials, self.space, front, picked)).convert_dtypes()

    def write_front(self) -> None:
        """Write front.json. Not inside `exclusive`.

        Raises:
            UserError: the folder can't be written.
        """
        with explain_storage_errors(self.folder), self.exclusive():
            content = {
                "study": self.name,
                "objectives": {item.name: item.direction for item in self.space.objectives},
                "front": [record.to_dict() for record in self.front()],
            }
            write_json(self.folder / "front.json", content)

    def folder_of(self, number: int) -> Path:
        """Return the folder of a trial's files, which need not exist."""
        return self.folder / "trials" / f"{number:05d}"

    def trial_folder(self, number: int) -> Path:
        """Return the folder of a trial's files, created if it does not exist."""
        folder = self.folder_of(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def workers_folder(self) -> Path:
        """Folder of the workers' leases."""
        return self.folder / "workers"

    def curve(self, number: int) -> list[dict[str, Any]]:
        """Return the points of a trial's loss curve; empty if this folder has none."""
        return read_curve(self.folder_of(number) / "curve.jsonl")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder's lock: one process at a time takes or ends a trial. Not reentrant."""
        with locked(self.folder):
            yield

    def batched_writes(self) -> AbstractContextManager[None]:
        """Group storage writes into one atomic append (embedded storage only). Not reentrant."""
        return batched_writes(self.inner)
