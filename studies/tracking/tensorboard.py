"""TensorBoard: event files, a folder for each run, and the table of hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from studies.tracking.tracker import Value, markdown


class TensorBoard:
    """Writer of event files below a folder. Implements `Tracker`."""

    def __init__(self, where: str) -> None:
        self.folder = Path(where)
        self._open: list[TensorBoardRun] = []

    def start(self, name: str, settings: Mapping[str, Value]) -> TensorBoardRun:
        """Open a run; one that is opened again has one more event file in its folder."""
        run = TensorBoardRun(self.folder / name, settings)
        self._open.append(run)
        return run

    def close(self) -> None:
        """Flush and close every writer."""
        for run in self._open:
            run.writer.close()


class TensorBoardRun:
    """One run. Implements `Run`."""

    def __init__(self, folder: Path, settings: Mapping[str, Value]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))
        self._settings, self._step = settings, 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars."""
        self._step = step
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """Write a Markdown table."""
        self.writer.add_text(name, markdown(rows), self._step)

    def finish(self, state: str, results: Mapping[str, float]) -> None:
        """Write the results as scalars `result/NAME`, and the settings beside them for the HPARAMS page."""
        from torch.utils.tensorboard.summary import hparams

        named = {f"result/{name}": value for name, value in results.items()}
        for name, value in named.items():
            self.writer.add_scalar(name, value, self._step)
        values = {name: value if value is not None else "" for name, value in self._settings.items()}
        for summary in hparams({**values, "state": state}, named):
            self.writer._get_file_writer().add_summary(summary)
        self.writer.close()


def open_tracker(where: str, project: str, mark: str) -> TensorBoard:
    """Open a folder of event files; it belongs to one project."""
    return TensorBoard(where)
