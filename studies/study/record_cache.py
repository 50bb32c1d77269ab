"""The records of a study's trials, each read once when it no longer changes."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial

from studies.storage.attributes import STOPPED_AT
from studies.study.replicates import mean_over_runs
from studies.study.trial_record import DONE, PAUSED, TrialRecord


class RecordCache:
    """Trials of an Optuna study as records. Finished trials never change and are read once."""

    def __init__(self, inner: optuna.Study, done_word: str = DONE) -> None:
        self._inner, self._done_word = inner, done_word
        self._records: list[TrialRecord] = []  # as they were last read
        self._open: set[int] = set()  # numbers of those that run or wait
        self._paused: dict[int, FrozenTrial] = {}  # paused ones, as they were then, by number

    def read(self) -> list[TrialRecord]:
        """Return every trial, in order; an architecture with replicates has the mean of its runs."""
        trials = self._inner.get_trials(deepcopy=False)
        # A paused trial does not change until it is resumed, and if it pauses again, it is at another rung.
        # There may be thousands of them; in the embedded storage each is one object until it is written to.
        resumed = [
            number
            for number, trial in self._paused.items()
            if trials[number] is not trial
            and trials[number].user_attrs[STOPPED_AT] != trial.user_attrs[STOPPED_AT]
        ]
        for number in [*self._open, *resumed, *range(len(self._records), len(trials))]:
            record = TrialRecord.read(trials[number], self._done_word)
            self._records[number : number + 1] = [record]
            self._open.discard(number)
            self._paused.pop(number, None)
            if record.state == PAUSED:
                self._paused[number] = trials[number]
            elif not trials[number].state.is_finished():
                self._open.add(number)
        return mean_over_runs(self._records.copy())
