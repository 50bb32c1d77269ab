"""Notes, graphs and artifacts of a study, kept up to date while it is searched or shown.

They are stored in the study, so that Optuna Dashboard shows them also without nas.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from studies.files.background import Foreground, in_background
from studies.files.folder_lock import locked
from studies.reporting.artifacts import artifact_folder, write_artifacts
from studies.reporting.dashboard_graphs import write_graphs
from studies.reporting.dashboard_notes import Notes
from studies.storage.opening import STORAGE_ERRORS
from studies.study import Study
from studies.study.trial_record import TrialRecord

SECONDS = 10.0  # between two looks at the study
GROWTH = 1.25  # graphs are drawn again when there are so many times as many results: journals only grow
STOP_SECONDS = 30.0  # that the last notes and graphs may take

log = logging.getLogger(__name__)


class Annotator:
    """Writer of what has changed since it was last asked; several processes may have one of a study."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._notes = Notes(study)
        self._drawn = 0  # results of which there are graphs
        self._known: dict[int, TrialRecord] = {}  # trials whose artifacts are written, as they were

    def update(self, *, last: bool = False) -> int:
        """Write what has changed, and return the number of notes, graphs and artifacts.

        Args:
            last: draw the graphs even if there are few new results.

        Raises:
            OSError, StorageInternalError: the study can only be read.
        """
        # a study in a database may have no folder on this machine, and a deleted one is not made again
        here = self.study.folder.is_dir()
        with locked(artifact_folder(self.study)) if here else nullcontext():
            written = self._notes.write()
            if here:
                written += self._write_artifacts()
            results = sum(record.counted or record.repeated for record in self.study.records())
            if results != self._drawn and (last or results >= GROWTH * self._drawn):
                written += write_graphs(self.study)
                self._drawn = results
        return written

    def _write_artifacts(self) -> int:
        written = 0
        for record in self.study.records():
            # replicates change the means of a trial, but none of its files
            state = replace(record, values=None, metrics={}, runs=(), failed_runs=0)
            if record.counted and record.architecture is not None and self._known.get(record.number) != state:
                written += write_artifacts(self.study, record)
                self._known[record.number] = state
        return written


@contextmanager
def annotating(study: Study, seconds: float = SECONDS) -> Iterator[None]:
    """Keep the notes, graphs and artifacts of a study up to date in a thread while the block runs.

    At its end they are complete; if it ends with an error or Ctrl-C, what is missing is written by the next
    search or dashboard. A study that can only be read is left as it is.
    """

    def run(search: Foreground) -> None:
        try:
            annotator = Annotator(
                Study.open(str(study.folder.resolve()), url=study.url)
            )  # not the block's own connection
            while search.running:
                annotator.update()
                search.wait(seconds)
            if search.completed:
                annotator.update(last=True)
        except STORAGE_ERRORS as error:
            log.warning("the study can only be read, so it gets no notes: %s", error)
        except ModuleNotFoundError as error:
            log.warning("notes can't be written: %s", error)
        except Exception:  # missing notes must not end a search
            log.exception("notes can't be written")

    with in_background(run, "notes", patience=STOP_SECONDS):
        yield
